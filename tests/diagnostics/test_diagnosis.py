"""The verdict on a whole training: from plain numbers to outcome, causes and consequences."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from cnnexp.diagnostics import CAUSES, Evidence, LayerFigures, Measurement, diagnose, outcome_of
from cnnexp.diagnostics.diagnosis import explanation, possible
from cnnexp.diagnostics.from_metrics import evidence_from
from cnnexp.diagnostics.loss_curve import LossCurve
from cnnexp.diagnostics.rules import RULES

CHANCE = math.log(10)
FACTS: dict[str, Any] = {
    "train_images": 2000,
    "val_images": 1000,
    "present": 10,
    "missing": [],
    "majority": 0.11,
    "unseen": 0.0,
    "pixel_std": 0.3,
    "duplicates": 0.0,
    "input_mean": 0.0,
    "input_std": 1.0,
    "outputs": "logits",
    "random": False,
    "frozen": 0.0,
    "frozen_layers": [],
    "constant_layers": [],
    "dropout": 0.0,
    "batch_norm": False,
    "batch_size": 32,
    "lr": 0.01,
    "weight_decay": 0.0,
    "left_out": [],
    "neighbours": [0.8, 0.1, 600.0],
}


def _layer(number: int, **figures: Any) -> LayerFigures:
    healthy: dict[str, Any] = {
        "gradient": 0.1,
        "weight_gradient": 0.5,
        "weight": 5.0,
        "update": 0.005,
        "dead": 0.1,
        "saturated": 0.1,
    }
    return LayerFigures(f"features.{number}", f"conv{number + 1}", **healthy | figures)


def _evidence(
    loss: tuple[float, float] = (CHANCE, CHANCE),
    accuracy: float = 0.1,
    *,
    steps: int = 200,
    first: dict[str, Any] | None = None,
    end: dict[str, Any] | None = None,
    every: dict[str, Any] | None = None,
    added: dict[str, tuple[float, float]] | None = None,
    train: float | None = None,
    **facts: Any,
) -> Evidence:
    """Of a training whose loss went evenly from one value to another, measured each ten steps."""
    evidence = Evidence(10, facts={**FACTS, **facts})
    for step in range(0, steps, 10):
        share = step / steps
        now = loss[0] + (loss[1] - loss[0]) * share
        own = {**(every or {}), **((first if not step else end) or {})}
        layers = [_layer(0, **own), _layer(1, **(every or {})), _layer(2, **(every or {}))]
        evidence.add(Measurement(step, layers, 1.0, [now] * 10))
        for name, pair in (added or {}).items():
            evidence.add_penalty(name, pair[bool(step)])
    trained = accuracy if train is None else train
    evidence.add_epoch(
        {"train/loss": loss[1], "val/loss": loss[1], "train/acc": trained, "val/acc": accuracy}
    )
    return evidence


def test_what_learns_has_no_finding() -> None:
    found = diagnose(_evidence((CHANCE, 0.2), 0.95))
    assert found.healthy
    assert found.outcome.kind == "learned"
    assert found.headline == (
        "this learned: it classifies 95.0% of the validation images after 191 steps; guessing would give "
        "11.0%"
    )


@pytest.mark.parametrize(
    ("evidence", "kind"),
    [
        (_evidence(steps=20), "too early"),
        (_evidence(), "guessing"),
        (_evidence((CHANCE, 2.2), 0.25), "unmoved"),
        (_evidence((CHANCE, 0.1), 0.11, train=0.99), "by heart"),
        (_evidence((CHANCE, 1.0), 0.6), "slow"),
        (_evidence((1.2, 1.2), 0.6), "stopped"),
        (_evidence((CHANCE, 0.1), 0.9), "learned"),
    ],
)
def test_the_outcome_is_relative_to_guessing_and_to_the_losss_own_movement(
    evidence: Evidence, kind: str
) -> None:
    assert outcome_of(evidence).kind == kind


def test_guessing_is_the_share_of_the_largest_class_and_within_chance_of_it() -> None:
    assert outcome_of(_evidence((2.0, 1.0), 0.62, majority=0.6)).kind == "guessing"
    assert outcome_of(_evidence((2.0, 1.0), 0.3, val_images=20, majority=0.2)).kind == "guessing"


def test_what_had_learned_and_guesses_again_lost_it() -> None:
    evidence = _evidence()
    evidence.epochs.insert(0, {"val/acc": 0.9, "train/acc": 0.9})
    outcome = outcome_of(evidence)
    assert outcome.kind == "lost"
    assert outcome.text.endswith("After epoch 1 it was 90.0%")


def test_of_numbers_the_loss_at_the_start_decides() -> None:
    """Nobody can guess them, and a loss of a hundred may be a good one."""
    learned, unmoved = _evidence((900.0, 100.0)), _evidence((900.0, 890.0))
    for evidence in (learned, unmoved):
        evidence.classes, evidence.epochs = 1, [{"val/mae": 8.0}]
    assert (outcome_of(learned).kind, outcome_of(unmoved).kind) == ("learned", "unmoved")
    assert learned.chance == learned.curve.start
    assert outcome_of(learned).text.endswith("; it began at 900")


def test_without_validation_the_loss_decides() -> None:
    evidence = _evidence((CHANCE, 0.5))
    evidence.epochs = []
    assert outcome_of(evidence).kind == "learned"
    still = _evidence()
    still.epochs = []
    assert outcome_of(still).kind == "unmoved"


CASES: dict[str, Evidence] = {
    "labels constant": _evidence(present=1),
    "classes missing": _evidence((CHANCE, 0.2), 0.95, present=9, missing=[0]),
    "labels do not fit": _evidence(neighbours=[0.11, 0.1, 600.0]),
    "images constant": _evidence(pixel_std=0.001),
    "images not normalised": _evidence(input_mean=33.0, input_std=78.0),
    "duplicates": _evidence((CHANCE, 0.2), 0.95, duplicates=0.2),
    "outputs squashed": _evidence((CHANCE, 1.6), 0.9, outputs="probabilities"),
    "frozen": _evidence(frozen=0.9),
    "no update": _evidence(left_out=["features.0"]),
    "weights constant": _evidence(constant_layers=["features.0"]),
    "random in evaluation": _evidence((CHANCE, 0.2), 0.95, random=True),
    "tiny batch": _evidence(batch_norm=True, batch_size=2),
    "dropout": _evidence(dropout=0.99),
    "penalty too strong": _evidence(added={"l2": (40.0, 0.0)}, penalties={"l2": 1.0}),
    "clipped": _evidence(clip_norm=1e-5),
    "vanishing": _evidence(every={}, first={"gradient": 1e-8}),
    "saturated": _evidence(first={"saturated": 0.9}),
    "dead": _evidence(first={"dead": 1.0}),
    "lr too high": _evidence(every={"update": 2.0}),
    "lr too low": _evidence(every={"update": 1e-6}),
    "too short": _evidence((CHANCE, 2.2), 0.12, steps=60),
    "exploding": _evidence((60.0, 60.0)),
    "stuck": _evidence(),
}


@pytest.mark.parametrize("cause", CASES)
def test_each_cause_is_named_first_by_its_evidence(cause: str) -> None:
    found = diagnose(CASES[cause])
    assert found.findings[0].cause == cause, found.lines()
    assert not found.healthy


def test_every_cause_is_tried() -> None:
    elsewhere = {
        "label noise",
        "sorted batches",
        "no gradient",
        "overfitting",
        "oscillating",
    }  # the tests below
    assert CASES.keys() | elsewhere == CAUSES.keys()


def test_label_noise_is_where_the_label_is_no_better_than_any_other_class() -> None:
    evidence = _evidence((CHANCE, 1.6), 0.6)
    evidence.predictions = {"images": 1000, "wrong": 0.4, "error_rank": 0.48}
    assert [f.cause for f in diagnose(evidence).findings] == ["label noise"]
    evidence.predictions["error_rank"] = 0.2  # the second or third choice: hard images
    assert diagnose(evidence).healthy


@pytest.mark.parametrize(
    ("kind", "seen", "text"),
    [
        ("probabilities", {}, "sum to 1, so that the loss cannot fall below 1.46"),
        ("sigmoid", {}, "lie between 0 and 1, so that the loss cannot fall below 1.46"),
        ("tanh", {}, "lie between -1 and 1, so that the loss cannot fall below 0.797"),
        ("relu", {}, "are cut at 0, where no gradient passes"),
        (
            "within 0 and 1",
            {"least": 0.1, "greatest": 0.9},
            "lie between 0 and 1, so that the loss",
        ),
        ("within 0 and 1", {"least": -3.0, "greatest": 5.0}, ""),
        ("within 0 and 1", {}, ""),
        ("logits", {"least": 0.1, "greatest": 0.9}, ""),
    ],
)
def test_outputs_that_are_no_logits(kind: str, seen: dict[str, float], text: str) -> None:
    evidence = _evidence((CHANCE, 0.2), 0.95, outputs=kind)
    evidence.predictions = seen
    findings = diagnose(evidence).findings
    assert [f.cause for f in findings] == (["outputs squashed"] if text else [])
    assert all(f.evidence.startswith(f"the network's outputs {text}") for f in findings)


def test_another_loss_has_another_guess_and_no_softmax() -> None:
    assert diagnose(_evidence((CHANCE, 0.2), 0.95, outputs="sigmoid", softmax=False)).healthy
    scaled = _evidence((230.0, 229.0), 0.1, chance=230.26)
    assert "exploding" not in [f.cause for f in diagnose(scaled).findings]
    assert diagnose(scaled).outcome.kind == "guessing"


def test_sorted_batches_hold_few_classes() -> None:
    evidence = _evidence()
    for share in (0.1, 0.2, 0.1):
        evidence.add_batch(share)
    first = diagnose(evidence).findings[0]
    assert first.cause == "sorted batches"
    assert first.evidence == "a batch has 12% of the classes that a shuffled one would have"


def test_a_layer_without_a_gradient_is_named_unless_it_is_frozen() -> None:
    cut = {"weight_gradient": None, "update": 0.0}
    found = diagnose(_evidence(first=cut, end=cut)).findings[0]
    assert (found.cause, found.layer) == ("no gradient", "features.0")
    frozen = diagnose(
        _evidence((CHANCE, 0.2), 0.95, first=cut, end=cut, frozen_layers=["features.0"])
    )
    assert frozen.healthy


def test_overfitting_comes_from_the_epochs() -> None:
    trouble = {"trouble": "overfitting", "evidence": "train/acc 100%, val/acc 94%", "until": None}
    evidence = _evidence((CHANCE, 0.01), 0.94)
    assert [f.cause for f in diagnose(evidence, [trouble]).findings] == ["overfitting"]
    assert diagnose(evidence, [{**trouble, "until": 9}]).healthy
    heart = diagnose(_evidence((CHANCE, 0.1), 0.11, train=0.99))
    assert [f.cause for f in heart.findings] == ["overfitting"]


@pytest.mark.parametrize("trouble", sorted(set(RULES) - {"overfitting"}))
def test_a_trouble_that_is_still_there_is_told_of_a_training_that_learned(trouble: str) -> None:
    told = {
        "trouble": trouble,
        "layer": "features.0",
        "since": 21,
        "evidence": "70% of something",
        "suggestion": "try something else",
        "until": None,
    }
    evidence = _evidence((CHANCE, 0.2), 0.95)
    (finding,) = diagnose(evidence, [told, {**told, "layer": "features.3"}]).findings
    assert (finding.cause, finding.layer) == (trouble, "features.0")
    assert str(finding).startswith(f"{trouble}: 70% of something since step 21: something else")
    assert diagnose(evidence, [{**told, "until": 90}]).healthy
    bad = diagnose(_evidence(every={"update": 1e-6}), [told])
    assert [f.cause for f in bad.findings] == ["lr too low"]  # the rules tell its cause


def test_numbers_that_ended_are_exploding_where_the_learning_rate_is_tried() -> None:
    evidence = _evidence(every={"update": 3.0})
    evidence.non_finite = {"step": 7, "layer": "features.3", "evidence": "the loss is nan"}
    found = diagnose(evidence)
    assert found.headline == "this did not learn: the training broke off: the loss is nan"
    assert found.findings[0].cause == "exploding"
    assert found.findings[0].overrides == ("optimizer.lr=0.001", "regularization=clip_norm")
    assert len(found.findings) == 1


def test_a_symptom_is_told_as_the_consequence_of_a_stronger_cause() -> None:
    evidence = _evidence(
        added={"l2": (40.0, 0.0)},
        penalties={"l2": 1.0},
        end={"weight": 0.05, "dead": 1.0},
    )
    (found,) = diagnose(evidence).findings
    assert str(found) == (
        "penalty too strong: l2 adds 40 to a loss of 2.3 at the start, and the weights of features.0 have "
        "shrunk to 0.01 of their norm (hence dead: 100% of the units of conv1 (features.0) give 0 for every "
        "image at the end): weaken it (regularization.l2.strength=0.0001)"
    )
    cause = explanation(evidence)
    assert cause is not None
    assert cause.cause == "penalty too strong"


def test_the_rate_that_is_suggested_follows_from_the_updates() -> None:
    (low,) = diagnose(_evidence(every={"update": 1.5e-5})).findings
    assert low.overrides == ("optimizer.lr=10",) or low.overrides == ("optimizer.lr=1e+01",)
    (high,) = diagnose(_evidence(every={"update": 5.0})).findings
    assert high.overrides == ("optimizer.lr=0.0003",)


def test_only_what_the_run_can_take_is_suggested() -> None:
    given = (
        "model.init=he",
        "optimizer.lr=0.1",
        "regularization=batch_norm",
        "trainer.max_epochs=9",
    )
    keys = ["model.activation", "optimizer.lr"]
    assert possible(given, {"keys": keys}) == ("optimizer.lr=0.1", "trainer.max_epochs=9")
    assert possible(given, {}) == given
    more = ("regularization=[l2,dropout,random_shift]",)
    assert possible(more, {"keys": keys}) == ("regularization=[l2,random_shift]",)
    assert possible(more, {"keys": ["model.dropout"]}) == more


def test_evidence_survives_json_and_says_the_same() -> None:
    for cause, evidence in CASES.items():
        again = Evidence.of(json.loads(json.dumps(evidence.as_dict())))
        assert diagnose(again).lines() == diagnose(evidence).lines(), cause


def test_a_measurement_that_is_not_finite_counts_as_a_step_alone() -> None:
    evidence = Evidence(10)
    evidence.add(Measurement(0, [_layer(0)], 1.0, [2.0]))
    evidence.add(Measurement(1, [_layer(0, gradient=math.nan)], math.inf, [math.nan]))
    assert (evidence.steps, len(evidence.early), evidence.curve.bins) == (2, 1, [2.0])
    assert evidence.gradient_norms == [1.0, 1.0]


def test_the_curve_keeps_the_means_of_any_length_in_few_numbers() -> None:
    curve = LossCurve()
    curve.add(float(i) for i in range(1000))
    assert len(curve.bins) < 64
    assert curve.width == 16
    assert curve.first == 2.0
    assert curve.bins[:2] == [7.5, 23.5]
    again = LossCurve.of(curve.state())
    again.add([1.0])
    curve.add([1.0])
    assert again.state() == curve.state()
    assert math.isnan(LossCurve().mean(0, 1))


def test_the_evidence_of_a_run_that_left_none_is_read_from_its_metrics() -> None:
    rows = []
    for step in range(0, 200, 10):
        own = _layer(0, update=1e-6)
        scalars = Measurement(step, [own, _layer(1, update=1e-6)], 1.0).scalars()
        scalars |= {"train/loss_step": CHANCE, "train/penalty/l2": 0.1}
        rows += [{"epoch": 1, "step": step, "name": n, "value": v} for n, v in scalars.items()]
    rows += [{"epoch": 1, "step": 199, "name": "val/acc", "value": 0.1}]
    found = evidence_from(rows, 10)
    assert (found.steps, found.epochs) == (191, [{"val/acc": 0.1}])
    assert found.penalties == {"l2": [0.1, 0.1]}
    assert diagnose(found).findings[0].cause == "lr too low"
