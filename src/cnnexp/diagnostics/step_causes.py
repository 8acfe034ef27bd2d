"""Causes that lie in gradients, activations and steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from cnnexp.diagnostics.causes import CauseRule, Finding, rate_times
from cnnexp.diagnostics.evidence import Evidence, update_ratios
from cnnexp.diagnostics.outcome import Outcome

Figures = Mapping[str, Mapping[str, Any]]

_VANISHES, _GROWS = 1e-3, 1e3  # of the last layer's gradient
_DEAD, _ALL_DEAD, _SATURATED = 0.5, 0.95, 0.5  # shares
_LARGE, _SMALL = 0.1, 3e-4  # ‖ΔW‖/‖W‖
_AIM = 3e-3  # ‖ΔW‖/‖W‖ of a step that most trainings learn by
_GROWN = 3.0  # of the weights' first norm
_HIGH_START = 5.0  # × ln(classes), of the first loss
_REACH = 0.5  # × the first loss
_SHORT = 150  # steps


def exploding(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report numbers that ended, or a gradient that grows on its way back."""
    grown = _flow(evidence.first)
    most, ratio = max(grown.items(), key=lambda item: item[1], default=("", 0.0))
    lower = rate_times(evidence, 0.1)
    advice = "take smaller steps, clip the gradient, or normalise"
    if outcome.kind == "failed":
        where = evidence.non_finite.get("layer", "")
        more = (*lower, "regularization=clip_norm")
        return Finding("exploding", 1.0, str(evidence.non_finite["evidence"]), advice, more, where)
    if not outcome.bad and not outcome.doubtful:
        return None
    loss = evidence.curve.start / evidence.chance  # before any step
    if ratio > _GROWS:
        label = evidence.first[most]["label"]
        text = f"{label} receives {ratio:.1g} times the last layer's gradient at the start"
        return Finding(
            "exploding", 0.9, text, "initialise for the activation", ("model.init=he",), most
        )
    if loss > _HIGH_START:
        text = f"the loss begins at {evidence.curve.start:.3g}; {evidence.said_of_chance}"
        return Finding("exploding", 0.6, text, advice, ("model.init=he", *lower))
    return None


def vanishing(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report a first layer that hardly any gradient reaches at the first step."""
    flow = _flow(evidence.first)
    if not flow or not (outcome.bad or outcome.doubtful):
        return None
    least = min(flow, key=lambda name: flow[name])
    cut = [x for x in evidence.first.values() if (x["dead"] or 0.0) >= _ALL_DEAD]
    if flow[least] >= _VANISHES or (cut and flow[least] == 0):
        return None
    label, last = evidence.first[least]["label"], [*evidence.first.values()][-1]["label"]
    text = f"at the first step {label} receives {flow[least]:.1g} of the gradient of {last}"
    strength = min(1.0, -math.log10(max(flow[least], 1e-12)) / 6)
    more = ("model.activation=relu", "model.init=he", "regularization=batch_norm")
    advice = "use ReLU with He's initialisation, and batch normalisation"
    return Finding("vanishing", strength, text, advice, more, least)


def saturated(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report a layer whose tanh or sigmoid is at its ends for most images."""
    if not (outcome.bad or outcome.doubtful):
        return None
    for figures, when in ((evidence.first, "from the start"), (evidence.last, "at the end")):
        name, share = _greatest(figures, "saturated")
        if share >= _SATURATED:
            text = (
                f"{share:.0%} of the outputs of {figures[name]['label']} are at their ends {when}"
            )
            early = when == "from the start"
            more = ("model.init=xavier",) if early else rate_times(evidence, 0.1)
            advice = "begin with smaller weights" if early else "take smaller steps"
            return Finding("saturated", share, text, advice, more, name, late=not early)
    return None


def dead(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report a layer whose units give 0 for every image."""
    if not (outcome.bad or outcome.doubtful):
        return None
    for figures, when in ((evidence.first, "from the start"), (evidence.last, "at the end")):
        name, share = _greatest(figures, "dead")
        if share >= _DEAD:
            text = f"{share:.0%} of the units of {figures[name]['label']} give 0 for every image {when}"
            early = when == "from the start"
            more = ("model.activation=leaky_relu",) if early else rate_times(evidence, 0.1)
            advice = "let negative inputs pass a little" if early else "take smaller steps"
            return Finding("dead", share, text, advice, more, name, late=not early)
    return None


def lr_too_high(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report steps that are large beside the weights, or weights that grew by them."""
    if not (outcome.bad or outcome.doubtful) or not evidence.early:
        return None
    ratios = [r for one in (*evidence.early, *evidence.late) for r in update_ratios(one)]
    most = max((r for r in ratios if math.isfinite(r)), default=0.0)
    growth = max(_growth(evidence).values(), default=0.0)
    curve = evidence.curve
    risen = (
        curve.last > 1.5 * max(min(curve.bins, default=math.nan), 1e-9)
        and curve.last > 0.7 * evidence.chance
    )
    if most < _LARGE and growth < _GROWN and not (risen and curve.last > 1.3 * evidence.chance):
        return None
    parts = [f"a step changed weights by {most:.1g} of their norm"]
    if growth >= _GROWN:
        parts.append(f"weights grew to {growth:.2g} times their norm")
    high = max(curve.bins, default=0.0)
    if high > 2 * max(curve.first, evidence.chance):
        parts.append(f"the loss rose to {high:.3g}")
    strength = min(
        1.0, 0.5 + 0.25 * max(math.log10(max(most, 1e-9) / _LARGE), math.log10(max(growth, 1) / 2))
    )
    factor = min(0.1, 10 * _AIM / max(most, 1e-9))
    advice = "take smaller steps"
    return Finding(
        "lr too high", max(strength, 0.5), ", ".join(parts), advice, rate_times(evidence, factor)
    )


def lr_too_low(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report steps that could not have lowered the loss by much, all together."""
    if not (outcome.bad or outcome.doubtful) or outcome.kind == "failed" or not evidence.late:
        return None
    ratios = [r for one in evidence.late for r in update_ratios(one)]
    ratio = statistics.median(ratios) if ratios else math.nan
    early = max((r for one in evidence.early for r in update_ratios(one)), default=0.0)
    loss = evidence.curve.first
    if not ratio < _SMALL or early > 30 * _SMALL:
        return None
    reach = evidence.reach / loss if loss else math.inf
    if reach > _REACH and outcome.kind not in ("slow", "stopped") and ratio > _SMALL / 10:
        return None
    text = (
        f"a step changes weights by {ratio:.1g} of their norm, and all {evidence.steps} together could have "
        f"lowered a loss of {loss:.3g} by {evidence.reach:.1g} at most"
    )
    strength = min(1.0, 0.4 + 0.2 * math.log10(_SMALL * 10 / max(ratio, 1e-12)))
    factor = max(10.0, min(_AIM / max(ratio, 1e-12), 1e6))
    return Finding(
        "lr too low", max(strength, 0.3), text, "take larger steps", rate_times(evidence, factor)
    )


def too_short(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report a training that ended while it learned."""
    if not outcome.bad or evidence.steps > _SHORT:
        return None
    fall = 1 - evidence.curve.last / evidence.curve.first if evidence.curve.first else 0.0
    if outcome.kind in ("failed", "lost"):
        return None
    text = f"there were {evidence.steps} steps, in which the loss fell by {fall:.0%}"
    epochs = max(2, math.ceil(len(evidence.epochs) * 500 / evidence.steps))
    return Finding("too short", 0.4, text, "train longer", (f"trainer.max_epochs={epochs}",))


def _flow(figures: Figures) -> dict[str, float]:
    """The gradient of each layer but the last, as a multiple of the last one's."""
    named = [(n, x["gradient"]) for n, x in figures.items() if x["gradient"] is not None]
    if len(named) < 2 or not named[-1][1]:
        return {}
    return {name: value / named[-1][1] for name, value in named[:-1]}


def _greatest(figures: Figures, what: str) -> tuple[str, float]:
    """The layer with the greatest share of ``what``, and the share."""
    known = {name: x[what] for name, x in figures.items() if x[what] is not None}
    name = max(known, key=lambda key: known[key], default="")
    return name, known.get(name, 0.0)


def _growth(evidence: Evidence) -> dict[str, float]:
    """The norm of each layer's weights at the end, as a multiple of that at the start."""
    first, last = evidence.first, evidence.last
    return {
        name: last[name]["weight"] / layer["weight"]
        for name, layer in first.items()
        if layer["weight"] and name in last and math.isfinite(last[name]["weight"])
    }


RULES: tuple[CauseRule, ...] = (
    exploding,
    vanishing,
    saturated,
    dead,
    lr_too_high,
    lr_too_low,
    too_short,
)
