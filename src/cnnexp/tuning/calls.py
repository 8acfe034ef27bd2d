"""The calls of a network's layers: what they are, what part of a pass they take, how fast each could be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from cnnexp import ops
from cnnexp.kernels.compilation import clock
from cnnexp.nn.layer import Layer
from cnnexp.nn.passes import listening
from cnnexp.tuning.auto import Heard, heard_calls
from cnnexp.tuning.greedy import PROMISE, Times
from cnnexp.tuning.measure import FIRST, QUICK, measure

__all__ = ["SLIGHT", "Calls", "Shares", "calls_of", "slight_ops", "times_of"]

# calls by kernels of one kind that an algorithm is far behind torch's own in, before it is passed over
_ENOUGH = 3
# of a forward pass, all ops together that are not measured: their kernels may take longer to compile than
# they will ever save
SLIGHT = 0.02

Calls = dict[str, list[Heard]]
Shares = Mapping[str, float]


def calls_of(
    layers: Mapping[str, Layer], forward: Callable[[], Any]
) -> tuple[Calls, dict[str, float]]:
    """The calls of each layer, without the tensors, in one forward pass by torch's own.

    Returns:
        The calls by the layer's name; and what part of the pass the layers of each op take, by the op's name.
    """
    calls: Calls = {name: [] for name in layers}
    spent: dict[str, float] = defaultdict(float)

    def keep(name: str, call: Heard) -> None:
        calls[name].append(call._replace(arguments=(), options={}))

    begin = clock()
    with _listening(layers, keep, spent):
        forward()
    whole = clock() - begin
    return calls, {op: seconds / whole if whole > 0 else 1.0 for op, seconds in spent.items()}


def slight_ops(*passes: Shares) -> set[str]:
    """The ops that take the least, as long as all of them together take less than ``SLIGHT``.

    An op's share is the greatest that it has in one of ``passes``: chance disturbs a pass, but not all.

    Examples:
        >>> from cnnexp.tuning.calls import slight_ops
        >>> shares = {"conv2d": 0.8, "max_pool2d": 0.013, "linear": 0.009}
        >>> slight_ops(shares, {**shares, "conv2d": 0.001})
        {'linear'}
    """
    greatest: dict[str, float] = {}
    for each in passes:
        greatest |= {op: max(share, greatest.get(op, 0.0)) for op, share in each.items()}
    found, together = set[str](), 0.0
    for op, share in sorted(greatest.items(), key=lambda item: item[1]):
        together += share
        if together >= SLIGHT:
            break
        found.add(op)
    return found


def times_of(
    layers: Mapping[str, Layer],
    calls: Calls,
    forward: Callable[[], Any],
    budget: float,
    slight: Collection[str] = (),
) -> dict[str, Times]:
    """For each layer that is called, the seconds of all its calls by each algorithm that takes them.

    Args:
        layers: The layers by name.
        calls: Their calls, of :func:`calls_of`.
        forward: The same pass again.
        budget: The seconds that there are, in the second half for ops that have promised something: layers
            whose calls are not looked at are left out.
        slight: The ops whose layers are left out.
    """
    known: dict[Any, Times] = {}
    promising: set[str] = set()  # ops
    hopeless: Counter[tuple[Any, str]] = Counter()  # by kernels and algorithm: calls that said so
    begin = clock()

    def look(name: str, call: Heard) -> None:
        if layers[name].op in slight or not call.measurable or call.key in known:
            return
        spent = clock() - begin
        if spent > budget or (spent > budget / 2 and call.op not in promising):
            return
        kernel = _kernel(call)
        passed_over = [way for (of, way), n in hopeless.items() if of == kernel and n >= _ENOUGH]
        known[call.key] = times = measure(*call[:4], QUICK, passed_over)
        torchs = times.get(ops.NATIVE, 0.0)
        if min(times.values(), default=1.0) < PROMISE * torchs:
            promising.add(call.op)
        if torchs:  # there is none where torch's own cannot be measured
            most = QUICK.far_behind * torchs + FIRST
            hopeless.update((kernel, way) for way in times if times[way] > most)

    with _listening(layers, look):
        forward()
    found = {}
    for name, each in calls.items():
        seconds = [known[call.key] for call in each if call.key in known]
        if seconds and len(seconds) == len(each) and layers[name].op not in slight:
            able = set.intersection(*map(set, seconds))
            found[name] = {way: sum(times[way] for times in seconds) for way in able}
    return found


def _kernel(call: Heard) -> Any:
    """The op, and the kind of its kernels: what is far behind for some may be the best for others."""
    weight = call.arguments[1] if len(call.arguments) > 1 else None
    if not isinstance(weight, Tensor) or weight.dim() < 3:
        return call.op
    of_one_channel = weight.shape[1] == 1  # depthwise, or the first layer
    return call.op, of_one_channel, tuple(weight.shape[2:])


@contextmanager
def _listening(
    layers: Mapping[str, Layer],
    listen: Callable[[str, Heard], None],
    spent: dict[str, float] | None = None,
) -> Iterator[None]:
    """Call ``listen`` with each call of an op inside the context, and the name of the layer that makes it.

    ``spent`` gets the seconds that the layers of each op take.
    """
    inside: list[str] = []

    def hear(call: Heard) -> None:
        if inside:
            listen(inside[-1], call)

    def named(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            inside.append(name)
            begin = clock()
            try:
                return forward(*arguments, **options)
            finally:
                if spent is not None:
                    spent[layers[name].op] += clock() - begin
                inside.pop()

        return listening(call)

    for name, layer in layers.items():  # hooks would miss a direct call of forward
        for method in layer.computes:
            vars(layer)[method] = named(name, getattr(layer, method))
    with heard_calls(hear):
        yield
