"""Time the algorithms of an op on a call's arguments, hidden from the caller's hooks and modes."""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnexp.kernels.compilation import clock
from cnnexp.ops.registry import NATIVE, Algorithm, algorithm_names, get_algorithm, get_op
from cnnexp.ops.torch_internals import as_it_is, unseen_by_modes
from cnnexp.tuning.memory import without_graph
from cnnexp.tuning.timing import interleaved_times

_ORACLES = ("reference",)  # never the fastest, and too slow to measure
# seconds that a first call may take for itself, making plans
FIRST = 5e-3


class Effort(NamedTuple):
    """How long algorithms are measured.

    Attributes:
        far_behind: An algorithm is not called again whose first two calls take this many times torch's own,
            and ``FIRST`` beside.
        hopeless: An algorithm this many times slower than the best is looked at once only.
        looks: The rounds of that first look.
        rounds: The least number of rounds of the others.
        seconds: Of measuring beyond those.
    """

    far_behind: float
    hopeless: float
    looks: int
    rounds: int
    seconds: float


THOROUGH = Effort(far_behind=10.0, hopeless=2.0, looks=2, rounds=7, seconds=0.15)
# what is promised, to be looked into
QUICK = Effort(far_behind=3.0, hopeless=1.5, looks=1, rounds=5, seconds=0.0)


def measure(
    op: str,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    needs: Sequence[bool],
    effort: Effort = THOROUGH,
    passed_over: Collection[str] = (),
) -> dict[str, float]:
    """Median seconds of forward and backward of each algorithm of ``op`` that takes the arguments.

    Args:
        op: The op's name.
        arguments, options: The arguments of the call; tensors among them are copied.
        needs: For each of ``arguments`` whether its gradient is computed. Without any, only the
            forward is timed.
        effort: How long to measure. What is far behind torch's own has the time of its second call.
        passed_over: Algorithms that are not measured.
    """
    device = arguments[0].device
    ways, far_behind = {}, {}
    with _apart(device):
        first_call = 0.0
        names = set(algorithm_names(op)) - {NATIVE, *_ORACLES, *passed_over}
        for name in (NATIVE, *sorted(names)):
            own = tuple(_copy(a, need) for a, need in zip(arguments, needs, strict=True))
            rest = {k: _copy(v, getattr(v, "requires_grad", False)) for k, v in options.items()}
            algorithm = get_algorithm(op, name)
            way = partial(_step, algorithm, own, rest, _writes(op, own, rest))
            try:
                if not algorithm.has_a_way(*own, **rest):
                    continue  # it would be another algorithm under this name
                seconds = _seconds(way, device)
            except (RuntimeError, ImportError):
                continue  # not on this device, not for this dtype, a package is missing
            if name == NATIVE:  # whose second call is without what a first one takes for itself
                first_call = _seconds(way, device)
            else:
                most = effort.far_behind * first_call + FIRST
                # twice, as the first call of all may have loaded kernels and started threads
                if seconds > most and (second := _seconds(way, device)) > most:
                    far_behind[name] = second
                    continue
            ways[name] = way
        if not ways:  # the arguments are wrong: the op itself will raise the error
            return {NATIVE: 0.0}
        warm_up = 2 if effort is THOROUGH else 0
        first = interleaved_times(ways, device, rounds=effort.looks, warm_up=warm_up)
        best = min(map(min, first.values()))
        ways = {n: way for n, way in ways.items() if min(first[n]) <= effort.hopeless * best}
        times: dict[str, list[float]] = {}
        if len(ways) > 1:  # else nothing is left to tell it from
            times = interleaved_times(
                ways, device, rounds=effort.rounds, seconds=effort.seconds, warm_up=0
            )
        times = {name: times.get(name, first[name]) for name in first}
    return {**{name: statistics.median(each) for name, each in times.items()}, **far_behind}


def _seconds(way: Callable[[], object], device: torch.device) -> float:
    """How long one call takes, without what is compiled for it."""
    start = clock()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


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
            hooks = torch.autograd.graph.saved_tensors_hooks(without_graph, as_it_is)
            innermost.enter_context(hooks)
        yield


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
        grads = torch.autograd.grad(output, inputs, torch.ones_like(output))
        for each, grad in zip(inputs, grads, strict=True):
            if each is not arguments[0] and not _lie_alike(each, grad):
                torch.empty_like(each).copy_(grad)  # as autograd does, into the parameter's layout


def _lie_alike(one: Tensor, other: Tensor) -> bool:
    """Whether both lie in memory in the same order; what dimensions of one element say does not count."""
    both = zip(one.shape, one.stride(), other.stride(), strict=True)
    return all(size == 1 or step == step_of_other for size, step, step_of_other in both)
