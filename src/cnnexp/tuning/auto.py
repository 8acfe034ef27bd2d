"""``algorithm="auto"``: measure once which algorithm is the fastest, then remember it.

Each op is measured for each combination of shapes, dtype, memory layout, device and arguments that
it meets, forward and backward, on copies of the tensors of the call. Choices are kept in memory and,
for the next process, in a file in the user's cache folder, together with the times that led to
them. Where measuring is impossible (in forward mode, while ``torch.jit`` traces or a CUDA graph is
recorded, on tensors without memory) an earlier choice is used, or else the op's default; under
``torch.compile`` and ``torch.func`` (vmap, grad, …) always the default.

The first choice for a kind of call holds in this process, whether or not gradients are computed: a
checkpointed region may run first without them and again with them, and must compute the same twice. So
a call without gradients is measured with its backward, as in training; under
``torch.inference_mode``, which no backward can follow, only the forward counts.

Algorithms round differently. A training therefore does not choose call by call: it pins one
algorithm for each layer before it starts and writes them into its config, see
``cnnexp.nn.choose_algorithms``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnexp.ops.autocast import autocast_dtype
from cnnexp.ops.forward_mode import in_forward_mode
from cnnexp.ops.registry import AUTO, NATIVE, Algorithm, algorithm_names, get_algorithm, set_auto
from cnnexp.ops.torch_internals import in_torch_func
from cnnexp.tuning.choices import ChoiceFile
from cnnexp.tuning.measure import measure

log = logging.getLogger(__name__)

_MOST = 4096  # at most this many situations are kept ready; each takes some hundred bytes
_DEFAULTS = {
    "batch_norm_act": "fused",
    "conv_relu_pool": "fused",
    "conv_tanh_pool": "fused",
    "linear_act": "fused",
}  # all other ops have the default "direct"

# the fastest algorithm, and the seconds of each that was measured
Choice = tuple[str, Mapping[str, float]]
Listener = Callable[["Heard"], None]


class Heard(NamedTuple):
    """A call of an op with ``algorithm="auto"``.

    Attributes:
        op: The op's name.
        arguments, options: Of the call.
        needs: For each of ``arguments`` whether its gradient is computed in training.
        key: What the times of the algorithms depend on, besides the machine: equal for calls of one kind.
        measurable: Whether its tensors can be copied and timed.
    """

    op: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    needs: tuple[bool, ...]
    key: Any
    measurable: bool


_chosen: dict[Any, Choice] = {}
_ready: dict[Any, Algorithm] = {}  # the first choice, by a key that is cheap to make in each call
_file = ChoiceFile()
_recorders: list[Callable[[str, str, Mapping[str, float]], None]] = []
_listeners: list[Listener] = []
_one_at_a_time = threading.RLock()  # replicas of a network may run in threads


def _call(op: str, *arguments: Any, **options: Any) -> Any:
    default = _DEFAULTS.get(op, "direct")
    if torch.compiler.is_compiling() or in_torch_func():
        # a tensor under vmap shows neither its layout nor the size of the mapped dimension
        return get_algorithm(op, default)(*arguments, **options)
    if _listeners:
        return _heard(op, arguments, options)
    key = _quick_key(op, arguments, options)
    algorithm = _ready.get(key)
    if algorithm is None or _recorders:
        if len(_ready) >= _MOST:  # for example when every image has another size
            _ready.clear()
        choice = _choose(op, arguments, options)
        name, seconds = choice or (default, {})
        algorithm = get_algorithm(op, name)
        # a recording of a whole network judges each layer by its own call, not by the first of its kind
        if choice is not None and not _recorders:
            algorithm = _ready.setdefault(key, algorithm)
        for record in _recorders:
            record(op, algorithm.name, seconds)
    return algorithm(*arguments, **options)


def _quick_key(op: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A key of everything that the first choice depends on, and more; unprocessed, as every call makes it."""
    parts: list[Any] = [op, torch.is_inference_mode_enabled(), autocast_dtype(arguments[0])]
    for v in (*arguments, *options.values(), *options) if options else arguments:
        if isinstance(v, Tensor):
            parts += (v.shape, v.stride(), v.dtype, v.device)
        else:
            parts.append(_plain(v))
    return tuple(parts)


def _plain(value: Any) -> Any:
    """The part of a non-tensor argument that a choice depends on: not the size of a slope or a momentum.

    The momentum of batch normalisation may differ in each call.
    """
    if value.__class__ is float:
        return float if value else 0.0
    return tuple(value) if value.__class__ is list else value


def _choose(op: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Choice | None:
    """The fastest algorithm and the seconds of each; None where it is unknown and cannot be measured."""
    key, needs = _key(op, arguments, options)
    with _one_at_a_time:
        if key not in _chosen:
            if not _measurable(arguments):
                return None
            _chosen[key] = _settle(op, key, arguments, options, needs)
        return _chosen[key]


def _key(
    op: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, tuple[bool, ...]]:
    """What the times of a call depend on, and which of ``arguments`` have gradients."""
    needs = _needs_grad(arguments)
    described = (*map(_describe, arguments), *map(_describe, sorted(options.items())))
    return (op, any(needs), needs, *described), needs


def _heard(op: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The result of torch's own op, once all listeners have heard of the call."""
    key, needs = _key(op, arguments, options)
    call = Heard(op, arguments, options, needs, key, _measurable(arguments))
    for listen in _listeners:
        listen(call)
    return get_algorithm(op, NATIVE)(*arguments, **options)


def _settle(
    op: str,
    key: Any,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    needs: tuple[bool, ...],
) -> Choice:
    """The choice in the file or else, after a measurement, the fastest, which is written there."""
    text = situation(key, arguments[0].device)
    known = _file.get(text)
    if known is not None and known[0] in algorithm_names(op):
        return known
    if not _chosen:  # the kernels are compiled now: explain the delay
        log.info("backward auto: measuring (once for each layer shape and machine)")
    times = measure(op, arguments, options, needs)
    name = min(times, key=lambda each: times[each])
    _file.put(text, name, times)
    kept = _file.get(text)  # of another process, where one was faster
    if kept is not None and kept[0] in algorithm_names(op):
        name, times = kept
    report = ", ".join(f"{n} {1e3 * t:.3f}" for n, t in sorted(times.items(), key=lambda i: i[1]))
    log.debug("backward auto: %s takes %s (ms forward and backward: %s)", op, name, report)
    return name, times


def _needs_grad(arguments: tuple[Any, ...]) -> tuple[bool, ...]:
    """The answer, for each argument, to whether its gradient is computed in training."""
    if torch.is_inference_mode_enabled():
        return (False,) * len(arguments)
    needs = [isinstance(a, Tensor) and a.requires_grad for a in arguments]
    if not torch.is_grad_enabled():  # outputs of other layers do not require gradients now
        needs[0] = arguments[0].is_floating_point()
    return tuple(needs)


def _describe(value: Any) -> Any:
    if isinstance(value, Tensor):
        precision = value.dtype, autocast_dtype(value)
        return tuple(value.shape), *precision, value.device, _layout(value)
    if isinstance(value, tuple):
        return tuple(map(_describe, value))
    return "float" if (plain := _plain(value)) is float else plain


def _layout(tensor: Tensor) -> str:
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return "channels_last"
    return "contiguous" if tensor.is_contiguous() else "strided"


def situation(key: Any, device: torch.device) -> str:
    """``key`` and everything else that times depend on, as text for the file."""
    from cnnexp.version import __version__

    gpu = device.type == "cuda"
    where = torch.cuda.get_device_name(device) if gpu else f"{torch.get_num_threads()} threads"
    return f"{key} | {where} | torch {torch.__version__}, cnnexp {__version__}"


def _measurable(arguments: tuple[Any, ...]) -> bool:
    if in_forward_mode() or torch.jit.is_tracing():
        return False
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return False
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    plain = all(
        type(t) in (Tensor, torch.nn.Parameter) and t.device.type != "meta" for t in tensors
    )
    return plain and all(t.numel() for t in tensors)


def forget() -> None:
    """Forget the choices in memory (the file stays): the next call reads or measures again."""
    _chosen.clear()
    _ready.clear()
    _file.forget()


@contextmanager
def recorded_choices(record: Callable[[str, str], None]) -> Iterator[None]:
    """Call ``record(op, algorithm)`` for every call with ``algorithm="auto"`` inside the context."""
    with recorded_times(lambda op, algorithm, _seconds: record(op, algorithm)):
        yield


@contextmanager
def recorded_times(record: Callable[[str, str, Mapping[str, float]], None]) -> Iterator[None]:
    """Call ``record(op, algorithm, seconds)`` for every call with ``algorithm="auto"`` inside the context.

    ``seconds`` are those of each algorithm that takes the call, forward and backward; empty where
    they are not known.
    """
    _recorders.append(record)
    try:
        yield
    finally:
        _recorders.remove(record)


@contextmanager
def heard_calls(listen: Listener) -> Iterator[None]:
    """Call ``listen`` with every call with ``algorithm="auto"`` inside the context, which torch computes.

    Nothing is chosen or measured.
    """
    _listeners.append(listen)
    try:
        yield
    finally:
        _listeners.remove(listen)


_made: dict[str, Algorithm] = {}  # not functools.cache, of which torch.compile warns


def _auto(op: str) -> Algorithm:
    if op not in _made:
        _made[op] = Algorithm(op, AUTO, partial(_call, op), "the fastest, measured", dtypes=())
    return _made[op]


set_auto(_auto)
