"""Causes that lie in the network as it was built, and in settings that outweigh the loss."""

from __future__ import annotations

import math

from cnnexp.diagnostics.causes import REGULARISE, CauseRule, Finding
from cnnexp.diagnostics.evidence import Evidence
from cnnexp.diagnostics.outcome import Outcome, gain_of, guess_of

_FROZEN = 0.5  # share of the parameters
_DROPOUT = 0.8
_TINY = 4  # images of a batch
_SHRUNK, _OUTWEIGHS = 0.3, 0.5  # of the weights' first norm; of penalty and loss together
_CLIPPED = 1e-3  # of the gradient's norm
# what the outputs do, the function that does it, and how far two of them can be apart; None: any distance
_RANGES = {
    "probabilities": ("sum to 1", "softmax", 1.0),
    "sigmoid": ("lie between 0 and 1", "sigmoid", 1.0),
    "tanh": ("lie between -1 and 1", "tanh", 2.0),
    "relu": ("are cut at 0, where no gradient passes", "ReLU", None),
}
_SHIPPED = {"l2": 1e-4, "l1": 1e-5, "elastic_net": 1e-5}  # strengths in conf/regularization


def outputs_squashed(evidence: Evidence, _outcome: Outcome) -> Finding | None:
    """Report outputs that are cut or squeezed into a range, and a loss that takes them for logits."""
    kind, seen = evidence.facts.get("outputs", "logits"), evidence.predictions
    if kind == "within 0 and 1":  # by chance, unless a training has left them there
        inside = seen.get("least", -1.0) >= 0 and seen.get("greatest", 2.0) <= 1
        kind = "sigmoid" if inside else "logits"
    if kind not in _RANGES or not evidence.facts.get("softmax", True):
        return None
    what, last, room = _RANGES[kind]
    text = f"the network's outputs {what}"
    if room:  # between the largest and the smallest output
        least = math.log(1 + (evidence.classes - 1) * math.exp(-room))
        text += f", so that the loss cannot fall below {least:.3g}"
    return Finding("outputs squashed", 1.0, text, f"remove the last {last} of the network")


def frozen(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report a network most of which does not train."""
    share, layers = evidence.facts.get("frozen", 0.0), evidence.facts.get("frozen_layers", [])
    if not (outcome.bad or outcome.doubtful) or (share < _FROZEN and not layers):
        return None
    names = ", ".join(layers[:3]) + (" …" if len(layers) > 3 else "")
    text = f"{share:.0%} of the parameters do not train{': ' + names if layers else ''}"
    return Finding(
        "frozen",
        max(share, 0.5),
        text,
        "let them train",
        ("parameters.frozen=[]",),
        layers[0] if layers else "",
    )


def no_gradient(evidence: Evidence, _outcome: Outcome) -> Finding | None:
    """Report layers that should train and have no gradient."""
    frozen_layers = evidence.facts.get("frozen_layers", [])
    first, last = evidence.first, evidence.last
    cut = [
        name
        for name, layer in first.items()
        if layer["weight_gradient"] is None
        and name not in frozen_layers
        and (name not in last or last[name]["weight_gradient"] is None)
    ]
    if not cut or not _frozen_known(evidence):
        return None
    text = (
        f"{', '.join(cut[:3])} {'has' if len(cut) == 1 else 'have'} no gradient, and should train"
    )
    advice = "look for detach(), no_grad() or .data in the network's forward"
    return Finding("no gradient", 1.0, text, advice, layer=cut[0])


def _frozen_known(evidence: Evidence) -> bool:
    """Whether it was looked at which layers are frozen."""
    return "frozen_layers" in evidence.facts


def no_update(evidence: Evidence, _outcome: Outcome) -> Finding | None:
    """Report layers that the optimiser was not given, or a learning rate of 0."""
    rate, layers = evidence.facts.get("lr"), evidence.facts.get("left_out", [])
    if rate == 0:
        return Finding(
            "no update", 1.0, "the learning rate is 0", "raise it", ("optimizer.lr=0.001",)
        )
    if not layers:
        return None
    names = ", ".join(layers[:3]) + (" …" if len(layers) > 3 else "")
    text = f"the optimiser was not given the weights of {names}"
    return Finding("no update", 1.0, text, "give it all parameters", layer=layers[0])


def weights_constant(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report layers whose weights began as one number."""
    layers = evidence.facts.get("constant_layers", [])
    if not layers or not (outcome.bad or outcome.doubtful):
        return None
    text = f"all weights of {', '.join(layers[:3])} are equal at the start"
    advice = "initialise them at random"
    return Finding("weights constant", 1.0, text, advice, ("model.init=he",), layers[0])


def random_in_evaluation(evidence: Evidence, _outcome: Outcome) -> Finding | None:
    """Report a network that answers otherwise each time."""
    if not evidence.facts.get("random", False):
        return None
    text = "two evaluations of the same images differ"
    advice = (
        "let dropout follow the network's mode: nn.Dropout, or F.dropout(…, training=self.training)"
    )
    return Finding("random in evaluation", 0.9, text, advice)


def tiny_batch(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report batch normalisation over a few images."""
    size = evidence.facts.get("batch_size", _TINY + 1)
    if not evidence.facts.get("batch_norm", False) or size > _TINY:
        return None
    if not (outcome.bad or outcome.doubtful):
        return None
    text = f"batch normalisation is by {size} images"
    epoch = evidence.epochs[-1] if evidence.epochs else {}
    if {"train/acc", "val/acc"} <= epoch.keys():
        text += f"; train/acc is {epoch['train/acc']:.1%}, val/acc {epoch['val/acc']:.1%}"
    advice = "take larger batches, or group normalisation, which needs none"
    return Finding("tiny batch", 1 - size / 8, text, advice, ("data.batch_size=64",))


def dropout(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report dropout that lets hardly anything pass."""
    share = evidence.facts.get("dropout", 0.0)
    if share < _DROPOUT or not (outcome.bad or outcome.doubtful):
        return None
    text = f"dropout leaves out {share:.0%} of a layer's outputs"
    return Finding("dropout", share, text, "leave out fewer", ("model.dropout=0.2",))


def penalty(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report weights that a penalty, or the optimiser's weight decay, makes small."""
    if not (outcome.bad or outcome.doubtful):
        return None
    decay, strengths = evidence.facts.get("weight_decay", 0.0), evidence.facts.get("penalties", {})
    if not evidence.penalties and not decay and not strengths:
        return None
    first, last = evidence.first, evidence.last
    shrunk = {
        name: last[name]["weight"] / layer["weight"]
        for name, layer in first.items()
        if layer["weight"] and name in last
    }
    least = min(shrunk, key=lambda name: shrunk[name], default="")
    value = sum(pair[0] for pair in evidence.penalties.values())
    loss = evidence.curve.first
    share = value / (value + abs(loss)) if loss and math.isfinite(value) else 1.0 * bool(value)
    small = bool(least) and shrunk[least] < _SHRUNK
    if not small and not (evidence.penalties and share > _OUTWEIGHS):
        return None
    parts, overrides = [], []
    if evidence.penalties and share > 0.1:
        name = max(evidence.penalties, key=lambda key: evidence.penalties[key][0])
        strength = strengths.get(name)
        parts.append(f"{name} adds {value:.3g} to a loss of {loss:.3g} at the start")
        if strength:
            lower = min(_SHIPPED.get(name, strength / 100), strength / 100)
            overrides.append(f"regularization.{name}.strength={lower:.1g}")
    if small:
        by = f"; the optimiser's weight_decay is {decay:g}" if decay and not overrides else ""
        parts.append(f"the weights of {least} have shrunk to {shrunk[least]:.2g} of their norm{by}")
    if decay and not overrides:
        overrides.append(f"optimizer.weight_decay={min(1e-4, decay / 100):.1g}")
    size = max(share if evidence.penalties else 0.0, 1 - (shrunk[least] if small else 1.0))
    return Finding(
        "penalty too strong",
        size,
        ", and ".join(parts),
        "weaken it",
        tuple(overrides),
        least if small else "",
    )


def clipped(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report a gradient that is clipped to almost nothing."""
    limit, norms = evidence.facts.get("clip_norm"), evidence.gradient_norms
    if not limit or not norms or not norms[0] or not (outcome.bad or outcome.doubtful):
        return None
    if limit / norms[0] > _CLIPPED:
        return None
    text = f"the gradient has the norm {norms[0]:.2g} and is clipped to {limit:.2g}"
    return Finding("clipped", 0.9, text, "clip at 1", ("regularization.clip.norm=1.0",))


def by_heart(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report a network that knows its training images and guesses others."""
    if outcome.kind != "by heart":
        return None
    epoch, guess = evidence.epochs[-1], guess_of(evidence)
    text = f"train/acc {epoch['train/acc']:.1%}, but val/acc {epoch['val/acc']:.1%}"
    size = gain_of(epoch["train/acc"], guess)
    more = (REGULARISE,)
    return Finding("overfitting", size, text, "regularise, or take more images", more)


RULES: tuple[CauseRule, ...] = (
    outputs_squashed,
    frozen,
    no_gradient,
    no_update,
    weights_constant,
    random_in_evaluation,
    tiny_batch,
    dropout,
    penalty,
    clipped,
    by_heart,
)
