"""Time the algorithms of an op on a call's arguments, hidden from the caller's hooks and modes."""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cnnexp.ops.registry import Algorithm, algorithm_names, get_algorithm, get_op
from cnnexp.ops.torch_internals import unseen_by_modes
from cnnexp.tuning.timing import interleaved_times

_ORACLES = ("reference",)  # never the fastest, and too slow to measure
_HOPELESS = 3.0  # an algorithm this many times slower than the best is measured once only
_SECONDS = 0.3  # the seconds of measuring beyond the least number of rounds


def measure(
    op: str, arguments: tuple[Any, ...], options: dict[str, Any], needs: Sequence[bool]
) -> dict[str, float]:
    """Median seconds of forward and backward of each algorithm of ``op`` that takes the arguments.

    Args:
        op: The op's name.
        arguments, options: The arguments of the call; tensors among them are copied.
        needs: For each of ``arguments`` whether its gradient is computed. Without any, only the
            forward is timed.
    """
    device = arguments[0].device
    ways = {}
    with _apart(device):
        for name in algorithm_names(op):
            if name in _ORACLES:
                continue
            own = tuple(_copy(a, need) for a, need in zip(arguments, needs, strict=True))
            rest = {k: _copy(v, getattr(v, "requires_grad", False)) for k, v in options.items()}
            algorithm = get_algorithm(op, name)
            way = partial(_step, algorithm, own, rest, _writes(op, own, rest))
            try:
                way()
            except (RuntimeError, ImportError):
                continue  # not on this device, not for this dtype, a package is missing
            ways[name] = way
        if not ways:  # the arguments are wrong: the op itself will raise the error
            return {"native": 0.0}
        first = interleaved_times(ways, device, rounds=2)
        best = min(map(min, first.values()))
        ways = {name: way for name, way in ways.items() if min(first[name]) <= _HOPELESS * best}
        times = interleaved_times(ways, device, rounds=7, seconds=_SECONDS, warm_up=0)
        times = {name: times.get(name, first[name]) for name in first}
    return {name: statistics.median(each) for name, each in times.items()}


@contextmanager
def _apart(device: torch.device) -> Iterator[None]:
    """Hide computations from the caller inside the context, as the call may stand anywhere.

    In a checkpointed region or under ``save_on_cpu`` hooks wait for saved tensors and count them;
    selective checkpoints and counters of FLOPs are modes that see every operation; and the caller
    may compute without gradients.
    """
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.inference_mode(False),
        torch.enable_grad(),
        ExitStack() as innermost,
        unseen_by_modes(),
    ):
        with suppress(RuntimeError):  # the caller has forbidden hooks for saved tensors
            # these do nothing, and hide the caller's
            hooks = torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is)
            innermost.enter_context(hooks)
        yield


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _copy(value: Any, needs_grad: bool) -> Any:
    """A copy of a tensor, so that nothing of the caller's is changed; other values unchanged."""
    if not isinstance(value, Tensor):
        return value
    own = value.detach().clone(memory_format=torch.preserve_format)
    return own.requires_grad_(needs_grad)


def _writes(op: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Whether the call asks for ``inplace=True``."""
    bound = inspect.signature(get_op(op)).bind(*arguments, **options)
    return bool(bound.arguments.get("inplace"))


def _step(
    algorithm: Algorithm, arguments: tuple[Any, ...], options: dict[str, Any], writes: bool
) -> None:
    # a leaf may not be written to
    given = (arguments[0].clone(), *arguments[1:]) if writes else arguments
    output = algorithm(*given, **options)
    output = output[0] if isinstance(output, tuple) else output
    inputs = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
    if inputs:
        torch.autograd.grad(output, inputs, torch.ones_like(output))
