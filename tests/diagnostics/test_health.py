"""The verdict: what each rule speaks to, when it turns there and back, and what it keeps silent about."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from cnnexp.config import Composer, plain_config
from cnnexp.config.check import check_types
from cnnexp.config.errors import ConfigError
from cnnexp.diagnostics import RULES, Health, LayerFigures, Measurement, Thresholds, Verdict
from cnnexp.diagnostics import rules as rules_module
from cnnexp.diagnostics.rules import SUGGESTIONS

CHANCE = math.log(10)


def _layer(number: int, **figures: Any) -> LayerFigures:
    healthy: dict[str, Any] = {
        "gradient": 0.1,
        "weight_gradient": 0.5,
        "weight": 5.0,
        "update": 0.005,
        "mean": 0.3,
        "std": 0.5,
        "dead": 0.1,
    }
    return LayerFigures(f"features.{number}", f"conv{number + 1}", **healthy | figures)


def _measurement(
    step: int, loss: float = 0.5, *, first: dict[str, Any] | None = None, **changes: Any
) -> Measurement:
    layers = [_layer(0, **(first or {})), _layer(1), _layer(2)]
    settings: dict[str, Any] = {"layers": layers, "gradient_norm": 1.0, "losses": [loss] * 20}
    settings["images"] = 128
    return Measurement(step, **settings | changes)


def _observed(*measurements: Measurement, **thresholds: Any) -> tuple[Health, list[Verdict]]:
    health = Health(10, Thresholds(**thresholds))
    turned = [verdict for each in measurements for verdict in health.observe(each)]
    return health, turned


def test_a_healthy_training_has_no_verdict() -> None:
    losses = [CHANCE * 0.9**i for i in range(60)]
    health, turned = _observed(*(_measurement(20 * i, loss) for i, loss in enumerate(losses)))
    assert turned == health.verdicts == []


def test_every_rule_is_in_the_table_and_has_a_suggestion() -> None:
    assert rules_module.__doc__ is not None
    starts = [line.split("  ")[0] for line in rules_module.__doc__.splitlines()]
    assert {name for name in RULES if name in starts} == set(RULES) == set(SUGGESTIONS)


def test_vanishing_names_the_layer_what_it_gets_and_what_to_try() -> None:
    each = [_measurement(20 * i, 2.2, first={"gradient": 3e-8}) for i in range(5)]
    health, turned = _observed(*each)
    assert [(v.trouble, v.layer, v.since) for v in turned] == [("vanishing", "features.0", 1)]
    assert str(turned[0]) == (
        "vanishing: conv1 (features.0) receives 3e-07 of the gradient of conv3 (features.2) since step 1: "
        "try model.activation=relu with model.init=he, or regularization=batch_norm"
    )
    assert health.present == turned


def test_it_turns_after_as_many_measurements_as_it_takes_patience_and_back_likewise() -> None:
    bad, good = {"gradient": 1e-8}, None
    health = Health(10, Thresholds(patience=3))
    said = []
    for i, first in enumerate([bad, bad, good, bad, bad, bad, bad, good, good, good, good]):
        turned = health.observe(_measurement(20 * i, first=first))
        said.append([(v.since, v.until) for v in turned])
    assert said == [[], [], [], [], [], [(61, None)], [], [], [], [(61, 181)], []]
    assert health.present == []
    assert len(health.verdicts) == 1


def test_exploding_turns_at_once() -> None:
    _, turned = _observed(_measurement(0), _measurement(20, first={"gradient": 2e4}))
    assert [(v.trouble, v.layer) for v in turned] == [("exploding", "features.0")]
    assert "receives 2e+05 times the gradient of conv3" in turned[0].evidence
    grown = {"first": {"weight_gradient": 400.0}, "gradient_norm": 500.0}
    assert _observed(_measurement(0), _measurement(20, 2.0, **grown))[1] == []  # off a plateau
    _, turned = _observed(_measurement(0), _measurement(20, 9.0, **grown))
    assert turned[0].layer == "features.0"
    assert turned[0].evidence == (
        "the gradient is 500 times as large as at the start, most in conv1 (features.0)"
    )


def test_what_is_not_finite_explodes_once() -> None:
    health = Health(10)
    first = health.observe_non_finite(12, "features.3", "the loss is nan")
    assert [(v.trouble, v.layer, v.since) for v in first] == [("exploding", "features.3", 12)]
    assert health.observe_non_finite(12, "features.3", "the loss is nan") == []


def test_dead_units_are_named_rather_than_the_gradient_that_they_stop() -> None:
    dead = {"dead": 0.9, "gradient": 0.0}
    _, turned = _observed(*(_measurement(20 * i, CHANCE, first=dead) for i in range(30)))
    assert [(v.trouble, v.layer) for v in turned] == [("dead", "features.0")]
    assert turned[0].evidence == "90% of the units of conv1 (features.0) give 0 for every image"


def test_a_few_images_say_nothing_of_dead_units() -> None:
    each = [_measurement(i, first={"dead": 0.9}, images=4) for i in range(5)]
    assert _observed(*each)[1] == []


def test_what_is_not_finite_spoils_no_later_judgement() -> None:
    grown = {"first": {"weight_gradient": 1e6}, "gradient_norm": 1e6}
    for norm in (math.inf, math.nan):  # the first step under a gradient scaler
        broken = _measurement(0, gradient_norm=norm, first={"weight_gradient": norm})
        skipped = _measurement(40, losses=[math.nan, 9.0], **grown)
        _, turned = _observed(broken, _measurement(20), skipped)
        assert [v.trouble for v in turned] == ["exploding"]
        assert "1000000 times as large" in turned[0].evidence


def test_oscillating_by_the_loss_and_by_the_gradients() -> None:
    losses = [1.0 + 0.3 * (-1) ** i for i in range(20)]
    _, turned = _observed(*(_measurement(20 * i, losses=losses) for i in range(8)))
    assert [v.trouble for v in turned] == ["oscillating"]
    noise = [1.0 + 0.3 * math.sin(12.9898 * i * i) for i in range(20)]  # no pattern
    assert _observed(*(_measurement(20 * i, losses=noise) for i in range(8)))[1] == []
    cosine = {"cosine": -0.9}
    _, turned = _observed(*(_measurement(20 * i, landscape=cosine) for i in range(8)))
    assert [v.trouble for v in turned] == ["oscillating"]
    assert "cosine -0.90" in turned[0].evidence


def test_learning_rate_too_high_goes_up_or_nowhere_with_large_steps() -> None:
    up = [2.0] * 5 + [0.5] * 5 + [1.5] * 5 + [0.5] * 5 + [1.6] * 5  # one bad window is none
    assert _observed(*(_measurement(20 * i, loss) for i, loss in enumerate(up)))[1] == []
    up += [1.7] * 5
    _, turned = _observed(*(_measurement(20 * i, loss) for i, loss in enumerate(up)))
    assert [v.trouble for v in turned] == ["lr too high"]
    assert turned[0].evidence.startswith("the loss has risen from 0.5 to 1.7; a step changes")
    large = [_layer(i, update=1.0) for i in range(3)]
    still = [_measurement(20 * i, CHANCE, layers=large) for i in range(20)]
    _, turned = _observed(*still)
    assert [v.trouble for v in turned] == ["lr too high"]
    assert (
        turned[0].evidence == "the loss stands at 2.3; a step changes weights by 0.2 of their norm"
    )


def test_learning_rate_too_low_and_stuck_differ_by_the_steps() -> None:
    small = [_layer(i, update=1e-5) for i in range(3)]
    slow = [_measurement(20 * i, CHANCE * (1 - 0.001 * i), layers=small) for i in range(20)]
    _, turned = _observed(*slow)
    assert [v.trouble for v in turned] == ["lr too low"]
    assert "a step changes weights by 2e-06 of their norm" in turned[0].evidence
    _, turned = _observed(*(_measurement(20 * i, CHANCE) for i in range(20)))
    assert [v.trouble for v in turned] == ["stuck"]
    assert "2.3 for 200 steps; a guess among 10 classes would have 2.3" in turned[0].evidence


def test_overfitting_needs_gap_and_loss_for_two_epochs() -> None:
    over = {"train/loss": 0.01, "val/loss": 0.3, "train/acc": 1.0, "val/acc": 0.94}
    fine = {**over, "val/acc": 0.99}
    health = Health(10)
    said = [health.observe_epoch(i + 1, m) for i, m in enumerate([fine, over, over, fine, fine])]
    assert [[(v.since, v.until) for v in turned] for turned in said] == [
        *([], [], [(2, None)]),
        *([], [(2, 5)]),
    ]
    assert health.verdicts[0].evidence == (
        "train/acc 100.00%, but val/acc 94.00%; val/loss 0.3, with train/loss 0.01"
    )
    assert Health(10).observe_epoch(1, {"train/loss": 0.1}) == []  # nothing validates


def test_going_on_from_its_state_is_going_on() -> None:
    steps = [
        *(_measurement(20 * i, CHANCE) for i in range(9)),
        *(_measurement(20 * i, first={"gradient": 1e-9}) for i in range(9, 14)),
        *(_measurement(20 * i, 0.3) for i in range(14, 20)),
    ]
    whole, _ = _observed(*steps)
    assert len(whole.verdicts) >= 1
    for cut in range(1, len(steps)):
        first, _ = _observed(*steps[:cut])
        state = json.loads(json.dumps(first.state_dict()))
        second = Health(10)
        second.load_state_dict(state)
        for step in steps[cut:]:
            second.observe(step)
        assert second.verdicts == whole.verdicts, cut


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("diagnostics.every=0", "diagnostics.every=0: must be at least 1"),
        ("diagnostics.health.patience=0", "diagnostics.health.patience=0: must be at least 1"),
        ("diagnostics.health.growth=inf", "diagnostics.health.growth=inf: must be finite"),
        ("diagnostics.health.dead=5", "diagnostics.health.dead=5.0: must be between 0 and 1"),
        ("diagnostics.name=loud", "diagnostics.name=loud: must be one of off, basic, full"),
        ("+diagnostics.health.limit=1", "there is no key 'limit' in diagnostics.health"),
    ],
)
def test_misuse_of_the_settings_is_named(override: str, message: str) -> None:
    config = plain_config(Composer("train").compose([override]))
    with pytest.raises(ConfigError) as error:
        check_types(config)
    assert message in str(error.value)


def test_the_shipped_thresholds_are_the_documented_defaults() -> None:
    config = plain_config(Composer("train").compose([]))
    assert check_types(config).diagnostics.health == Thresholds()
