"""The verdict's rules: each looks at a training's history and says what it sees, or nothing.

===============  =====================================================  =============================
Trouble          It shows when                                          Source
===============  =====================================================  =============================
vanishing        a layer's ‖∂L/∂a‖ is below ``vanishing`` × the last    Hochreiter (1991); Glorot &
                 layer's                                                Bengio (2010)
exploding        a layer's is above ``exploding`` × the last layer's,   Pascanu et al. (2013)
                 ‖∂L/∂θ‖ above ``growth`` × its greatest at the
                 start with a loss above ln(classes), or a loss,
                 gradient or weight is not finite
dead             ``dead`` of a layer's units give 0 for every image of  Lu et al. (2019)
                 a step by ``dead_images`` or more
oscillating      successive changes of the loss are correlated below    LeCun et al. (1998), 5
                 ``oscillation`` and larger than ``amplitude`` × the
                 loss, or successive gradients' cosine is below
                 ``cosine``, while the loss does not fall
lr too high      a window's loss is ``rise`` × ln(classes) above the    Bengio (2012), 3.1
                 best one before, or the loss is high, stands still,
                 and ‖ΔW‖/‖W‖ is above ``high_update``
lr too low       the loss is high, hardly falls, and ‖ΔW‖/‖W‖ is        the same
                 below ``low_update``
stuck            the loss is high and stands still, for no reason       the same
                 above
overfitting      train/acc − val/acc is above ``gap`` and val/loss      Prechelt (1998)
                 above ``loss_ratio`` × train/loss
===============  =====================================================  =============================

The words in ``code`` are the thresholds of :class:`Thresholds`. "High" is a window's loss above
``high_loss`` × ln(classes), "stands still" one that fell by less than ``stuck`` over two windows.
Those of the learning rate and ``stuck`` must show in two windows in a row, overfitting in ``epochs``
epochs, exploding once, the others in ``patience`` measurements. A step that ``on_nan=skip`` or a
gradient scaler leaves out does not count.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from cnnexp.diagnostics.history import History
from cnnexp.diagnostics.measurement import LayerFigures
from cnnexp.runs.epochs import epoch_after


@dataclass(frozen=True)
class Sign:
    """A trouble that a rule finds in the history.

    Attributes:
        layer: The name of the layer concerned; "" for the training as a whole.
        evidence: The numbers that show the trouble, in words.
    """

    layer: str
    evidence: str


Rule = Callable[[History], Sign | None]


def vanishing(history: History) -> Sign | None:
    """Report a layer that hardly any gradient reaches."""
    layers = _with_gradients(history)
    if len(layers) < 2 or dead(history):
        return None
    *before, last = layers
    least = min(before, key=lambda layer: layer.gradient or 0.0)
    ratio = (least.gradient or 0.0) / (last.gradient or 1.0)
    if not last.gradient or not ratio < history.thresholds.vanishing:
        return None
    return Sign(least.name, f"{least} receives {ratio:.1g} of the gradient of {last}")


def exploding(history: History) -> Sign | None:
    """Report a gradient that grows on its way back, or from step to step."""
    layers, limits, now = _with_gradients(history), history.thresholds, history.last
    if len(layers) > 1 and layers[-1].gradient:
        greatest = max(layers[:-1], key=lambda layer: layer.gradient or 0.0)
        ratio = (greatest.gradient or 0.0) / layers[-1].gradient
        if ratio > limits.exploding:
            text = f"{greatest} receives {ratio:.1g} times the gradient of {layers[-1]}"
            return Sign(greatest.name, text)
    before = history.norm_before
    if now is None or not before or (now.gradient_norm or 0.0) <= limits.growth * before:
        return None
    # a gradient also grows where the training leaves a plateau, but then the loss is below chance
    if not history.recent or history.recent[-1] <= history.loss_at_chance:
        return None
    grown = {
        layer: (layer.weight_gradient or 0.0) / history.first_gradients[layer.name]
        for layer in now.layers
        if layer.name in history.first_gradients
    }
    most = max(grown, key=lambda layer: grown[layer]) if grown else None
    where = f", most in {most}" if most else ""
    text = f"the gradient is {(now.gradient_norm or 0.0) / before:.0f} times as large as at the start{where}"
    return Sign(most.name if most else "", text)


def dead(history: History) -> Sign | None:
    """Report units that give 0 for every image, so that no gradient passes them."""
    if history.last is None or history.last.images < history.thresholds.dead_images:
        return None
    layers = [layer for layer in _layers(history) if layer.dead is not None]
    most = max(layers, key=lambda layer: layer.dead or 0.0, default=None)
    if most is None or (most.dead or 0.0) < history.thresholds.dead:
        return None
    return Sign(most.name, f"{most.dead:.0%} of the units of {most} give 0 for every image")


def oscillating(history: History) -> Sign | None:
    """Report steps that jump over the minimum, back and forth."""
    limits, losses = history.thresholds, history.recent
    if len(losses) < limits.window // 2 or _fall(losses) > limits.stuck:
        return None
    if len(history.cosines) > 2:
        cosine = statistics.fmean(history.cosines)
        if cosine < limits.cosine:
            return Sign("", f"successive gradients point against each other (cosine {cosine:.2f})")
    changes = [b - a for a, b in pairwise(losses)]
    power = sum(c * c for c in changes)
    if not power:
        return None
    correlation = sum(a * b for a, b in pairwise(changes)) / power
    size = statistics.fmean(abs(c) for c in changes) / abs(statistics.fmean(losses))
    if correlation > limits.oscillation or size < limits.amplitude:
        return None
    text = f"the loss goes up and down by {size:.0%} of itself from step to step and does not fall"
    return Sign("", text)


def lr_too_high(history: History) -> Sign | None:
    """Report a loss that rises, or large steps that do not lower it."""
    limits, windows = history.thresholds, history.windows
    if len(windows) < 2:
        return None
    best = min(windows[:-1])
    if windows[-1] - best > limits.rise * history.loss_at_chance:
        return Sign(
            "", f"the loss has risen from {best:.3g} to {windows[-1]:.3g}{_updates(history)}"
        )
    ratio = history.update_ratio
    if not _stands_still(history, limits.stuck) or ratio is None or ratio <= limits.high_update:
        return None
    return Sign("", f"the loss stands at {windows[-1]:.3g}{_updates(history)}")


def lr_too_low(history: History) -> Sign | None:
    """Report steps that are too small to lower the loss."""
    ratio, limits = history.update_ratio, history.thresholds
    if not _stands_still(history, limits.slow) or ratio is None or ratio >= limits.low_update:
        return None
    return Sign("", f"the loss is still {history.windows[-1]:.3g}{_updates(history)}")


def stuck(history: History) -> Sign | None:
    """Report a loss that stands still for no reason that another rule knows."""
    if not _stands_still(history, history.thresholds.stuck):
        return None
    window, loss = history.thresholds.window, history.windows[-1]
    guess = f"a guess among {history.classes} classes would have {history.loss_at_chance:.3g}"
    if history.classes < 2:
        guess = f"it began at {history.loss_at_chance:.3g}"
    return Sign("", f"the loss stands at {loss:.3g} for {2 * window} steps; {guess}")


def overfitting(history: History) -> Sign | None:
    """Report a network that does much better on training images than on others."""
    limits = history.thresholds
    if not history.epochs or len(history.epochs[-1]) < 4:
        return None
    now = history.epochs[-1]
    gap, loss = now["train/acc"] - now["val/acc"], now["val/loss"]
    if gap <= limits.gap or loss <= limits.loss_ratio * now["train/loss"]:
        return None
    losses = [epoch["val/loss"] for epoch in history.epochs if "val/loss" in epoch]
    best = min(losses)
    since = f", after {best:.3g} in epoch {epoch_after(losses.index(best))}" if loss > best else ""
    text = (
        f"train/acc {now['train/acc']:.2%}, but val/acc {now['val/acc']:.2%}; val/loss {loss:.3g}{since}, "
        f"with train/loss {now['train/loss']:.2g}"
    )
    return Sign("", text)


RULES: Mapping[str, Rule] = {
    "vanishing": vanishing,
    "exploding": exploding,
    "dead": dead,
    "oscillating": oscillating,
    "lr too high": lr_too_high,
    "lr too low": lr_too_low,
    "stuck": stuck,
    "overfitting": overfitting,
}

# where one of these shows, the troubles that follow from it are not reported
CAUSES = ("vanishing", "exploding", "dead")
BY_EPOCH = ("overfitting",)
BY_WINDOW = ("lr too high", "lr too low", "stuck")

SUGGESTIONS: Mapping[str, str] = {
    "vanishing": "try model.activation=relu with model.init=he, or regularization=batch_norm",
    "exploding": "try regularization=clip_norm, a lower optimizer.lr, or regularization=batch_norm",
    "dead": "try a lower optimizer.lr, model.activation=leaky_relu, or model.init=he",
    "oscillating": "try a lower optimizer.lr or less momentum",
    "lr too high": "try optimizer.lr at a tenth, or scheduler=warmup_cosine",
    "lr too low": "try optimizer.lr at ten times",
    "stuck": "try another optimizer.lr or model.init, and look at the labels",
    "overfitting": "try regularization=[l2,dropout,random_shift], or more images",
}


def _layers(history: History) -> list[LayerFigures]:
    return list(history.last.layers) if history.last else []


def _with_gradients(history: History) -> list[LayerFigures]:
    return [layer for layer in _layers(history) if layer.gradient is not None]


def _fall(losses: list[float]) -> float:
    """The fall of the mean loss from the first half to the second, as a share of the first."""
    half = len(losses) // 2
    before, after = statistics.fmean(losses[:half]), statistics.fmean(losses[half:])
    return (before - after) / abs(before) if before else 0.0


def _stands_still(history: History, fall: float) -> bool:
    """Whether the loss is high and fell by less than ``fall`` over two windows."""
    windows = history.windows
    if len(windows) < 3 or windows[-1] < history.thresholds.high_loss * history.loss_at_chance:
        return False
    return windows[-1] > (1 - fall) * windows[-3]


def _updates(history: History) -> str:
    ratio = history.update_ratio
    return "" if ratio is None else f"; a step changes weights by {ratio:.1g} of their norm"
