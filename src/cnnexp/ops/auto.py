"""``algorithm="auto"``: measure once which algorithm is the fastest, then remember.

Each op is measured for each combination of shapes, dtype, memory layout, device and arguments that
it meets, forward and backward, on the tensors of the call. Choices are kept in memory and, for the
next process, in a file under the user's cache folder, together with the times that led to them. Where
nothing can be measured (in forward mode, on tensors without memory) an earlier choice is used, else
the op's default; under ``torch.compile`` and ``torch.func`` (vmap, grad, …) always the default.

Algorithms round differently. A training therefore does not choose call by call: it pins one
algorithm for each layer before it starts and writes them into its config, see
``cnnexp.nn.choose_algorithms``.
"""

from __future__ import annotations

import inspect
import logging
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cnnexp.ops.autocast import autocast_dtype
from cnnexp.ops.choices import ChoiceFile
from cnnexp.ops.forward_mode import in_forward_mode
from cnnexp.ops.registry import (
    AUTO,
    Algorithm,
    algorithm_names,
    get_algorithm,
    set_auto,
)
from cnnexp.ops.timing import interleaved_times

__all__ = ["forget", "recorded_choices"]

log = logging.getLogger(__name__)

_DEFAULTS = {"conv_relu_pool": "fused"}  # of all other ops: direct
_ORACLES = ("reference",)  # never the fastest, and too slow to find out
_HOPELESS = 3.0  # times as slow as the best at the first look: not looked at again
_SECONDS = 0.3  # of measuring, once the rounds that are needed are done

_MOST = 4096  # situations that are kept ready; each is some hundred bytes

_chosen: dict[Any, str] = {}
_ready: dict[Any, Algorithm] = {}  # the same by a key that costs each call little
_file = ChoiceFile()
_recorders: list[Callable[[str, str], None]] = []


def _call(op: str, *arguments: Any, **options: Any) -> Any:
    default = _DEFAULTS.get(op, "direct")
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        # a mapped tensor does not tell its layout, nor how many the others are
        return get_algorithm(op, default)(*arguments, **options)
    key = _quick_key(op, arguments, options)
    algorithm = _ready.get(key)
    if algorithm is None:
        if len(_ready) >= _MOST:  # images of ever other sizes
            _ready.clear()
        name = _choose(op, arguments, options)
        algorithm = get_algorithm(op, name or default)
        if name is not None:
            _ready[key] = algorithm
    for record in _recorders:
        record(op, algorithm.name)
    return algorithm(*arguments, **options)


def _quick_key(op: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """All that a choice may depend on, and more, as it is: made for every call."""
    parts = [op, torch.is_grad_enabled()]
    if torch._C._is_any_autocast_enabled():
        parts.append(autocast_dtype(arguments[0]))  # pyright: ignore[reportArgumentType]
    for v in (*arguments, *options.values(), *options) if options else arguments:
        if isinstance(v, Tensor):
            parts += (v.shape, v.stride(), v.dtype, v.device, v.requires_grad)
        else:
            parts.append(tuple(v) if v.__class__ is list else v)
    return tuple(parts)


def _choose(op: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> str | None:
    """The name of the fastest, None where it is not known and cannot be measured."""
    key = (op, _needs_grad(arguments), *map(_describe, (*arguments, *sorted(options.items()))))
    if key not in _chosen:
        if not _measurable(arguments):
            return None
        _chosen[key] = _settle(op, key, arguments, options)
    return _chosen[key]


def _settle(op: str, key: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> str:
    """The name in the file, else the fastest, which is written there."""
    text = _text(key, arguments[0])
    name = _file.get(text)
    if name in algorithm_names(op):
        return name  # pyright: ignore[reportReturnType]
    if not _chosen:  # the kernels are compiled now: say why nothing seems to happen
        log.info("backward auto: measuring (once for each layer shape and machine)")
    times = _measure(op, arguments, options)
    name = min(times, key=lambda each: times[each])
    _file.put(text, name, times)
    report = ", ".join(f"{n} {1e3 * t:.3f}" for n, t in sorted(times.items(), key=lambda i: i[1]))
    log.debug("backward auto: %s takes %s (ms forward and backward: %s)", op, name, report)
    return name


def _needs_grad(arguments: tuple[Any, ...]) -> bool:
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _describe(value: Any) -> Any:
    if isinstance(value, Tensor):
        last = value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
        layout = "channels_last" if last else "contiguous" if value.is_contiguous() else "strided"
        shape, precision = tuple(value.shape), autocast_dtype(value) or value.dtype
        return shape, precision, value.device, layout, value.requires_grad
    return tuple(value) if isinstance(value, list) else value


def _text(key: Any, input: Tensor) -> str:
    """``key`` and all else that times depend on, for the file."""
    from cnnexp import __version__

    gpu = input.device.type == "cuda"
    device = (
        torch.cuda.get_device_name(input.device) if gpu else f"{torch.get_num_threads()} threads"
    )
    return f"{key} | {device} | torch {torch.__version__}, cnnexp {__version__}"


def _measurable(arguments: tuple[Any, ...]) -> bool:
    if in_forward_mode():
        return False
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    plain = all(
        type(t) in (Tensor, torch.nn.Parameter) and t.device.type != "meta" for t in tensors
    )
    return plain and all(t.numel() for t in tensors)


def _measure(op: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> dict[str, float]:
    """Median seconds of forward and backward of each algorithm that takes the arguments."""
    needs_grad = _needs_grad(arguments)
    device = arguments[0].device
    ways = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        for name in algorithm_names(op):
            if name in _ORACLES:
                continue
            way = partial(_step, get_algorithm(op, name), *_copies(arguments, options), needs_grad)
            try:
                way()
            except (RuntimeError, ImportError):
                continue  # not on this device, not for this dtype, a package is missing
            ways[name] = way
        if not ways:  # the arguments are wrong: let the op say so
            return {"native": 0.0}
        first = interleaved_times(ways, device, rounds=2)
        best = min(map(min, first.values()))
        ways = {name: way for name, way in ways.items() if min(first[name]) <= _HOPELESS * best}
        times = interleaved_times(ways, device, rounds=7, seconds=_SECONDS, warm_up=0)
        times = {name: times.get(name, first[name]) for name in first}
    return {name: statistics.median(each) for name, each in times.items()}


def _copies(arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
    """The arguments with tensors of their own: nothing of the caller's is touched."""

    def copy(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        own = value.detach().clone(memory_format=torch.preserve_format)
        return own.requires_grad_(value.requires_grad)

    return tuple(map(copy, arguments)), {k: copy(v) for k, v in options.items()}


def _step(
    algorithm: Algorithm, arguments: tuple[Any, ...], options: dict[str, Any], needs_grad: bool
) -> None:
    given = arguments
    if _writes(algorithm, arguments, options):  # no leaf may be written to
        given = arguments[0].clone(), *arguments[1:]
    output = algorithm(*given, **options)
    output = output[0] if isinstance(output, tuple) else output
    if needs_grad:
        inputs = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
        torch.autograd.grad(output, inputs, torch.ones_like(output))


def _writes(algorithm: Algorithm, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Whether the call asks for ``inplace=True``."""
    try:
        names = list(inspect.signature(algorithm.function).parameters)
    except ValueError:  # of torch's built-in functions, none of which can be asked to
        return False
    return bool(dict(zip(names, arguments, strict=False), **options).get("inplace"))


def forget() -> None:
    """Forget the choices in memory (the file stays): the next call reads or measures again."""
    _chosen.clear()
    _ready.clear()
    _file.forget()


@contextmanager
def recorded_choices(record: Callable[[str, str], None]) -> Iterator[None]:
    """Call ``record(op, algorithm)`` for every call with ``algorithm="auto"``."""
    _recorders.append(record)
    try:
        yield
    finally:
        _recorders.remove(record)


_made: dict[str, Algorithm] = {}


def _auto(op: str) -> Algorithm:
    if op not in _made:
        _made[op] = Algorithm(op, AUTO, partial(_call, op), "the fastest, measured", dtypes=())
    return _made[op]


set_auto(_auto)
