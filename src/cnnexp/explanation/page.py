"""A trace as one HTML page that needs no other file, no server and no network."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cnnexp.explanation.encoding import Pool, chosen_channels, packed_weight
from cnnexp.explanation.pull import Pull
from cnnexp.explanation.subject import Subject
from cnnexp.explanation.trace import Step, Trace
from cnnexp.runs.files import plain, write_text
from cnnexp.version import __version__

# How many numbers a page holds in all, at five to six bytes each; beyond that, channels are chosen.
_ROOM_FOR_MAPS = 800_000
_ROOM_FOR_WEIGHTS = 500_000
_MOST_WEIGHTS = 80_000  # the most weights of one layer
_MAPS = ("input", "output", "grad_input", "grad_output")
_FEW_MAPS, _FEW_NUMBERS = 8, 8_000  # what is kept of a layer for which there is no room

_SCRIPTS = (
    "data",
    "maps",
    "parts",
    "numbers",
    "conv",
    "pool",
    "linear",
    "pointwise",
    "cards",
    "pull",
    "main",
)
_SHORT = {"Conv2d": "conv", "MaxPool2d": "maxpool", "AvgPool2d": "avgpool", "BatchNorm2d": "norm"}
_SHORT |= {"GroupNorm": "norm", "AdaptiveAvgPool2d": "mean", "Dropout2d": "dropout"}


@dataclass(frozen=True)
class Origin:
    """The source of a page.

    Attributes:
        network: The model and its weights, for example ``"best.ckpt of epoch 3"``.
        command: The command that makes the page again.
    """

    network: str
    command: str


def write_page(
    traced: Trace,
    subject: Subject,
    classes: Sequence[str],
    origin: Origin,
    file: Path,
    pull: Pull | None = None,
) -> None:
    """Write the HTML of :func:`page` to ``file``, completely or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    write_text(file, page(traced, subject, classes, origin, pull))


def page(
    traced: Trace,
    subject: Subject,
    classes: Sequence[str],
    origin: Origin,
    pull: Pull | None = None,
) -> str:
    """The page's HTML.

    Args:
        traced: The trace of one image, forward and backward.
        subject: That image.
        classes: The name of each class.
        origin: The source, named at the top and at the bottom of the page.
        pull: How hard the image pulls the weights; None to leave that part out.
    """
    folder = Path(__file__).with_name("web")

    def read(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    text = json.dumps(plain(_content(traced, subject, classes, origin, pull)), allow_nan=False)
    return (
        read("page.html")
        .replace("/*STYLE*/", read("page.css"))
        .replace("/*SCRIPT*/", "\n".join(read(f"{name}.js") for name in _SCRIPTS))
        .replace("/*DATA*/", text.replace("<", "\\u003c"))  # so that nothing in it ends the script
    )


def _content(
    traced: Trace, subject: Subject, classes: Sequence[str], origin: Origin, pull: Pull | None
) -> dict[str, Any]:
    pool = Pool()
    whole = _whole(traced.steps)
    weighted = sum("weight" in step.parameters for step in traced.steps)
    room = min(_MOST_WEIGHTS, _ROOM_FOR_WEIGHTS // max(1, weighted))
    names = _names(traced.steps)
    return {
        "origin": vars(origin),
        "version": __version__,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "image": subject.origin,
        "true_class": subject.true_class,
        "classes": list(classes),
        "label": traced.label,
        "loss": traced.loss,
        "pixels": pool.add(subject.pixels),
        "input": pool.add(traced.image),
        "grad_input": pool.add(traced.grad_image),
        "logits": pool.add(traced.logits),
        "grad_logits": pool.add(traced.grad_logits),
        "probabilities": pool.add(traced.probabilities),
        "steps": [
            _step(step, name, pool, room if i in whole else None)
            for i, (step, name) in enumerate(zip(traced.steps, names, strict=True))
        ],
        "pull": None if pull is None else _pull(pull, pool),
        "tensors": pool.tensors,
    }


def _pull(pull: Pull, pool: Pool) -> dict[str, Any]:
    rivals = [{**vars(each), "pixels": pool.add(each.pixels)} for each in pull.hardest]
    return {**vars(pull), "layers": [*pull.layers.items()], "hardest": rivals}


def _names(steps: Sequence[Step]) -> list[str]:
    """The names that the page shows for the steps: conv1, relu1, maxpool1, conv2 and so on."""
    counts: Counter[str] = Counter()
    names = []
    for step in steps:
        short = _SHORT.get(step.kind, step.kind.lower())
        counts[short] += 1
        names.append(f"{short}{counts[short]}")
    return names


def _whole(steps: Sequence[Step]) -> set[int]:
    """The indices of the steps for which there is room for all numbers, the smallest steps first."""
    sizes = sorted((sum(t.numel() for t in _tensors(step)), i) for i, step in enumerate(steps))
    found, total = set(), 0
    for size, i in sizes:
        total += size / 2  # a layer's output is the next one's input and is held once
        if total <= _ROOM_FOR_MAPS:
            found.add(i)
    return found


def _tensors(step: Step) -> list[Tensor]:
    return [tensor for tensor in (getattr(step, name) for name in _MAPS) if tensor is not None]


def _step(step: Step, name: str, pool: Pool, room: int | None) -> dict[str, Any]:
    """The content of ``step`` on the page; without ``room`` (None) only some of its maps."""
    content: dict[str, Any] = {
        "name": name,
        "module": step.module,
        "kind": step.kind,
        "settings": step.settings,
        "uses": step.uses,
        "input_shape": None if step.input is None else list(step.input.shape),
        "output_shape": list(step.output.shape),
        "norm": float(step.output.norm()),
        "grad_norm": None if step.grad_output is None else float(step.grad_output.norm()),
        "parameters": sum(p.numel() for p in step.parameters.values()),
    }
    if room is None:
        kept = _kept(step)
        grad = step.grad_output
        return content | {
            "kept": kept,
            "output": pool.add(step.output[kept]),
            "grad_output": pool.add(None if grad is None else grad[kept]),
        }
    bias = step.parameters.get("bias")
    content |= {
        **{name: pool.add(getattr(step, name)) for name in _MAPS},
        "bias": pool.add(bias),
        "grad_bias": pool.add(step.gradients.get("bias")),
    }
    if step.kind in ("Conv2d", "Linear"):
        content["weight"] = packed_weight(step, pool, room)
    elif step.kind in ("BatchNorm2d", "GroupNorm"):
        content["scale"] = pool.add(step.parameters.get("weight"))
        content["grad_scale"] = pool.add(step.gradients.get("weight"))
    return content


def _kept(step: Step) -> list[int]:
    channels = step.output.size(0)
    each = max(1, step.output.numel() // max(1, channels))
    return chosen_channels(step.grad_output, channels, max(1, min(_FEW_MAPS, _FEW_NUMBERS // each)))


def summary(
    traced: Trace, classes: Sequence[str], true_class: int | None
) -> Mapping[str, str | float]:
    """The figures that the terminal shows: the classes, the probability of the predicted one, the loss."""
    best = int(traced.logits.argmax())
    return {
        "true": "unknown" if true_class is None else classes[true_class],
        "predicted": classes[best],
        "probability": float(traced.probabilities[best]),
        "label": classes[traced.label],
        "loss": traced.loss,
    }
