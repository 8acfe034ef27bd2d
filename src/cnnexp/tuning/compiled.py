"""Whether torch.compile makes a network's training step faster than the network as it is written."""

from __future__ import annotations

import hashlib
import logging
import math
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from cnnexp.environment import variable
from cnnexp.kernels.compilation import graphs
from cnnexp.nn.layer import layer_algorithms
from cnnexp.ops.torch_internals import tell_of_graphs
from cnnexp.tuning.auto import situation
from cnnexp.tuning.choices import ChoiceFile
from cnnexp.tuning.network import Run, measurable, watch
from cnnexp.tuning.paired import compare
from cnnexp.tuning.step import Step

__all__ = ["CompileChoice", "NotCompiledError", "choose_compiled", "compiled", "try_compiled"]

log = logging.getLogger(__name__)

LONGEST = 120.0  # seconds; a network that is not compiled by then stays as it is written
_BUDGET = 10.0  # seconds; no further look at pairs of steps after so long
_COMPILERS = ("g++", "clang++", "c++", "cl")  # one of which torch needs for a CPU


class NotCompiledError(RuntimeError):
    """torch.compile cannot compile the network here, or not soon enough."""


@dataclass(frozen=True)
class CompileChoice:
    """The choice for a network.

    Attributes:
        compiled: Whether torch.compile was chosen.
        ratio: The time of a compiled step by that of the step as it is written; infinite where there was
            nothing to measure.
        reason: Why there was nothing to measure; "" where there was.
        seconds: How long compiling and measuring took; 0.0 where the outcome was known.
    """

    compiled: bool
    ratio: float
    reason: str = ""
    seconds: float = 0.0


def compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """``network`` by torch.compile, which shares its parameters and buffers, and compiles when it is called.

    Each size of batch has a graph of its own (``dynamic=False``): one that serves several sizes may round
    otherwise than the one made for the first, so that a resumed run, which meets the sizes in another order,
    would get other bits. The clock of ``cnnexp.kernels.compilation`` stands still while it compiles.
    """
    tell_of_graphs(graphs.begin, graphs.end)
    return torch.compile(network, dynamic=False)


def try_compiled(network: nn.Module, images: Tensor, run: Run) -> float:
    """The seconds until the first step of the compiled ``network`` is done; the network is restored.

    Raises:
        NotCompiledError: There is no compiler, the network cannot be compiled, or it takes too long.
    """
    with measurable(network, images) as (batch, renew), _by_compiler(batch.device):
        step = Step(network, {}, partial(run, _module(network), batch), renew, batch.device)
        begin = time.perf_counter()
        step.seconds({})
        return time.perf_counter() - begin


def choose_compiled(network: nn.Module, images: Tensor, run: Run) -> CompileChoice:
    """Whether the training step of ``network`` is faster by torch.compile than as it is written.

    The network is compiled, for at most 120 seconds (in the main thread, where that can be ended); then whole
    steps of the two (forward, a scalar like a loss, backward) take turns, in pairs, for at most some ten
    seconds. torch.compile is chosen where its step is faster by more than chance makes of it. A network that
    cannot be compiled, or a machine without a compiler, keeps the network as it is written.

    What is measured is kept in the user's cache, for each network, batch and machine, unless other programs
    disturbed it. The network is restored, and so are the random states.

    Args:
        network: The network, whose layers' algorithms are settled.
        images: A batch of the size, layout and device that it will be trained on.
        run: Calls a network with the batch, in the training's precision.
    """
    file = ChoiceFile()
    with measurable(network, images) as (batch, renew):
        text = _situation(network, batch)
        known = file.get_ratio(text)
        if known is not None:
            return CompileChoice(known < 1.0, known)
        log.info(
            "compile auto: compiling the network and measuring its step (once for each network, batch and "
            "machine; at most %.0f s)",
            LONGEST + 2 * _BUDGET,
        )
        begin = time.perf_counter()
        try:
            with _by_compiler(batch.device):
                steps = [
                    Step(network, {}, partial(run, each, batch), renew, batch.device)
                    for each in (_module(network), network)
                ]
                ours, written = (partial(step.seconds, {}) for step in steps)
                ours()
                undisturbed = watch("compile auto")
                found = compare(ours, written, _BUDGET)
        except NotCompiledError as error:
            return CompileChoice(False, math.inf, str(error), time.perf_counter() - begin)
        ratio = found.ratio if found.faster or found.ratio > 1.0 else 1.0
        log.debug("compile auto: %.3f (%.3f to %.3f, %d pairs)", *found)
        ratio = file.settle_ratio(text, ratio, undisturbed=undisturbed())
        return CompileChoice(ratio < 1.0, ratio, seconds=time.perf_counter() - begin)


def _module(network: nn.Module) -> nn.Module:
    module: Any = compiled(network)
    return module


@contextmanager
def _by_compiler(device: torch.device) -> Iterator[None]:
    """Within it torch.compile compiles, for a limited time; whatever goes wrong is a NotCompiledError."""
    if device.type == "cpu" and not _has_compiler():
        raise NotCompiledError(f"this machine has none of {', '.join(_COMPILERS)}, nor a CXX")
    try:
        with torch.compiler.set_stance("default"), _at_most(LONGEST):
            yield
    except NotCompiledError:
        raise
    except Exception as error:  # of other people's networks, and of compilers
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise NotCompiledError(" ".join(reason[0].split())) from error


def _has_compiler() -> bool:
    named = variable("CXX")
    return any(shutil.which(each) for each in ([named] if named else _COMPILERS))


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Within it, in the main thread, NotCompiledError comes once so many seconds are over."""
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def over(_number: int, _frame: FrameType | None) -> None:
        raise NotCompiledError(f"it is not compiled after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _situation(network: nn.Module, batch: Tensor) -> str:
    """The network, its batch and its algorithms, as text for the file."""
    tensors = [
        (name, tuple(p.shape), p.dtype, p.requires_grad) for name, p in network.named_parameters()
    ]
    shape = (tuple(batch.shape), batch.stride(), batch.dtype)
    # where a function lies says nothing
    made = re.sub(r" at 0x[0-9a-f]+", "", str(network))
    ways = sorted(layer_algorithms(network).items())
    precision = torch.get_autocast_dtype(batch.device.type) if torch.is_autocast_enabled() else None
    text = f"{made} {tensors} {shape} {ways} {precision}"
    about = hashlib.sha256(text.encode()).hexdigest()
    return situation(f"torch.compile of the step of {type(network).__name__} {about}", batch.device)
