"""Whether bfloat16 makes a network's training step faster than float32, each with its best algorithms."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from cnnexp.nn.layer import layer_algorithms
from cnnexp.tuning.auto import situation
from cnnexp.tuning.choices import ChoiceFile
from cnnexp.tuning.network import (
    Run,
    StepChoice,
    choose_step,
    measurable,
    waiting_layers,
    watch,
)
from cnnexp.tuning.paired import compare
from cnnexp.tuning.step import Step

log = logging.getLogger(__name__)

WORTH = 0.97  # bfloat16 keeps 8 of 24 binary digits: a smaller gain is not worth the others
_BUDGET = 4.0  # seconds; no further look at pairs of steps after so long
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # in torch's words; the last is of ARM


@dataclass(frozen=True)
class PrecisionChoice:
    """The choice for a network.

    Attributes:
        bfloat16: Whether bfloat16 was chosen.
        step: The algorithms of the layers in the precision that was chosen.
        ratio: The time of a step in bfloat16 by that in float32, each with its own best algorithms;
            infinite where the network cannot be run in bfloat16.
    """

    bfloat16: bool
    step: StepChoice
    ratio: float


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for products of bfloat16; without, they only cost time.

    Examples:
        >>> import torch
        >>> from cnnexp.tuning import multiplies_bfloat16
        >>> multiplies_bfloat16(torch.device("meta"))
        False
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    able = getattr(torch.cpu, "get_capabilities", dict)()  # of torch 2.11 and later
    return any(able.get(name, False) for name in _INSTRUCTIONS)


def choose_precision(
    network: nn.Module,
    images: Tensor,
    full: Run,
    half: Run,
    algorithms: Mapping[str, str] | None = None,
) -> PrecisionChoice:
    """Whether the training step of ``network`` is faster in bfloat16 than in float32.

    Layers set to ``auto`` have in either precision the algorithms that make the step the fastest there, see
    ``choose_step``; then whole steps of the two take turns, in pairs. bfloat16 is chosen where its step is
    faster by more than chance makes of it, and takes less than 0.97 of float32's; that the weights, their
    gradients and the optimiser's step are of float32 in both is the callers' affair.

    What is measured is kept in the user's cache, for each network, batch and machine, unless other programs
    disturbed it. The network is restored, and so are the random states.

    Args:
        network: The network, as ``replace_layers`` leaves it.
        images: A batch of the size, layout and device that it will be trained on.
        full, half: Call network and images in float32, and in bfloat16: the latter inside of autocast.
        algorithms: Of the layers set to ``auto``, by name, in either precision; None to choose them.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from cnnexp.tuning import choose_precision
        >>> def full(network, images):
        ...     return network(images)
        >>> def half(network, images):
        ...     with torch.autocast("cpu", torch.bfloat16):
        ...         return network(images)
        >>> network, images = nn.Linear(3, 2), torch.randn(5, 3)
        >>> choice = choose_precision(network, images, full, half)
        >>> choice.bfloat16 == (choice.ratio < 0.97)
        True
    """
    given = None if algorithms is None else StepChoice(algorithms, 1.0)
    base = given or choose_step(network, images, full)
    try:
        other = given or choose_step(network, images, half)
        with measurable(network, images) as (batch, renew):
            pair = _Pair(network, batch, (full, half), (base, other))
            ratio = pair.known_or_measured(renew)
    except Exception as error:  # of other people's networks
        log.warning("precision auto: the step cannot be measured in bfloat16: %s", error)
        return PrecisionChoice(False, base, math.inf)
    faster = ratio < WORTH
    return PrecisionChoice(faster, other if faster else base, ratio)


@dataclass(frozen=True)
class _Pair:
    """A step in float32 and the same in bfloat16."""

    network: nn.Module
    batch: Tensor
    runs: tuple[Run, Run]
    choices: tuple[StepChoice, StepChoice]

    def known_or_measured(self, renew: Callable[[], None]) -> float:
        """The time of the second step by that of the first; 1.0 where chance may have made a gain."""
        file, text = ChoiceFile(), self._situation()
        known = file.get_ratio(text)
        if known is not None:
            return known
        log.info(
            "precision auto: measuring the network's step in float32 and in bfloat16 (once for each "
            "network, batch and machine)"
        )
        undisturbed = watch("precision auto")
        layers, steps = waiting_layers(self.network), []
        for run, choice in zip(self.runs, self.choices, strict=True):
            forward = partial(run, self.network, self.batch)
            step = Step(self.network, layers, forward, renew, self.batch.device)
            steps.append(partial(step.seconds, choice.layers))
        full, half = steps
        found = compare(half, full, _BUDGET)
        ratio = found.ratio if found.faster or found.ratio > 1.0 else 1.0
        log.debug("precision auto: %.3f (%.3f to %.3f, %d pairs)", *found)
        return file.settle_ratio(text, ratio, undisturbed=undisturbed())

    def _situation(self) -> str:
        """The network, its batch and its algorithms, as text for the file."""
        batch = (tuple(self.batch.shape), self.batch.stride(), self.batch.dtype)
        tensors = [
            (name, tuple(p.shape), p.dtype, p.requires_grad)
            for name, p in self.network.named_parameters()
        ]
        ways = [sorted(choice.layers.items()) for choice in self.choices]
        named = sorted(layer_algorithms(self.network).items())
        made = re.sub(
            r" at 0x[0-9a-f]+", "", str(self.network)
        )  # where a function lies says nothing
        text = f"{made} {tensors} {batch} {ways} {named}"
        about = hashlib.sha256(text.encode()).hexdigest()
        kind = type(self.network).__name__
        return situation(f"bfloat16 in the step of {kind} {about}", self.batch.device)
