"""The registry of algorithms: which op can be computed in which ways.

An op is entered by :func:`declare`, each way to compute it is one frozen :class:`Algorithm`, entered
by :func:`register` at the end of its own file and chosen by name. Tests and the ``backward`` config
group read their lists from here, so that nothing that is registered goes untested.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch.nn import functional as F

from cnnexp.ops.torch_internals import exporting
from cnnexp.suggestions import nearest


class UnknownAlgorithmError(ValueError):
    """An op or an algorithm was asked for that nobody has registered."""


class UnsupportedInputError(NotImplementedError):  # a RuntimeError, and what torch raises
    """An algorithm was given a device or a dtype that it does not run on."""


# Real ones only: the formulas have no conjugates, which complex gradients need.
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def recorded() -> bool:
    """Whether ``torch.export`` or ``torch.jit.trace`` records the operators of the call."""
    return exporting() or torch.jit.is_tracing()


@dataclass(frozen=True)
class Algorithm:
    """One way to compute one op, forward and backward.

    Attributes:
        op: Name of the op, for example ``"conv2d"``.
        name: Name of the algorithm, for example ``"im2col"``.
        function: Callable that takes all arguments of the op, by position.
        summary: One line for help texts and tables.
        devices: Device types that it runs on; empty means all.
        dtypes: Data types that it computes in; empty means all that torch has.
        grad_weight: Its ∂L/∂w alone, from (∂L/∂y, input, geometry), for whoever weighs the samples.
        serves: Takes all arguments of the op, and tells whether they are computed in a way of its own, not
            in another algorithm's; None of one that does so always.
    """

    op: str
    name: str
    function: Callable[..., Any]
    summary: str
    devices: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = FLOATING
    grad_weight: Callable[..., torch.Tensor] | None = None
    serves: Callable[..., bool] | None = None

    def __call__(self, input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Compute the op on ``input``; raises :class:`UnsupportedInputError` where it cannot.

        What is left out of the other arguments has the op's defaults.

        Under ``torch.export`` and ``torch.jit.trace`` it is torch's own op: they record operators
        and derive the backward from them, so no hand-derived one can stand in what they make.

        Integers have no gradient, so there is nothing to choose: torch computes what it can.
        """
        if self.name != NATIVE and recorded():
            return get_algorithm(self.op, NATIVE)(input, *args, **kwargs)
        if self.devices and input.device.type not in self.devices:
            raise UnsupportedInputError(self._refusal("device", input.device.type, self.devices))
        if self.dtypes and input.dtype not in self.dtypes:
            native = _REGISTRY[self.op].get("native")
            if native and not input.is_floating_point() and not input.is_complex():
                return self._by_torch(native.function, input, *args, **kwargs)
            raise UnsupportedInputError(self._refusal("dtype", input.dtype, self.dtypes))
        if kwargs or len(args) < _OTHERS.get(self.op, 0):
            return self.function(input, *_others(self.op, input, args, kwargs))
        return self.function(input, *args)

    def has_a_way(self, input: torch.Tensor, *args: Any, **kwargs: Any) -> bool:
        """Whether this call, whose arguments these are, is not computed as another algorithm would."""
        if self.serves is None:
            return True
        return self.serves(input, *_others(self.op, input, args, kwargs))

    def _by_torch(
        self, function: Callable[..., Any], input: torch.Tensor, *a: Any, **k: Any
    ) -> Any:
        try:
            return function(input, *a, **k)
        except NotImplementedError as error:
            raise UnsupportedInputError(
                f"{self.op} does not take {input.dtype}, as torch's does not ({error}); convert the "
                f"input to a floating-point dtype, for example with input.float()"
            ) from error

    def _refusal(self, kind: str, value: object, allowed: tuple[object, ...]) -> str:
        known = ", ".join(map(str, allowed))
        others = ", ".join(n for n in algorithm_names(self.op) if n != self.name)
        return (
            f"{self.op} algorithm '{self.name}' does not run on {kind} {value} (it runs on: {known}); "
            f"choose another algorithm: {others}"
        )


NATIVE = "native"  # torch's own op and autograd: every op has it
AUTO = "auto"  # not an algorithm: whichever is the fastest
_CHOOSER = "cnnexp.tuning.auto"  # above this layer: imported at the first ``auto``, calls set_auto

_auto: list[Callable[[str], Algorithm]] = []
_REGISTRY: dict[str, dict[str, Algorithm]] = {}
_OPS: dict[str, Callable[..., Any]] = {}
_OTHERS: dict[str, int] = {}  # how many arguments an op has beside the input


def declare(
    op: Callable[..., Any],
    *,
    native: Callable[..., Any] | None = None,
    direct: Callable[..., Any] | None = None,
    summary: str = "",
) -> None:
    """Enter ``op`` by its name; all that its ways have in common is read from its signature.

    Args:
        op: The public function, with ``algorithm`` as its one argument by keyword alone. It passes
            all its other arguments to the algorithm, by position.
        native: torch's own function, whose autograd is the baseline that ours is compared with; it
            becomes the algorithm ``native``.
        direct: Of an op with one formula, its algorithm ``direct``; that of an op with several ways
            is entered with :func:`register`, like the others.
        summary: One line on ``direct``.

    Raises:
        ValueError: There is an op of that name.
    """
    name = op.__name__
    if name in _OPS:
        raise ValueError(f"there is an op named '{name}' already; choose another name")
    _OPS[name], _OTHERS[name] = op, len(inspect.signature(op).parameters) - 2
    if native is not None:
        about = f"{_named(native, name)} and torch's autograd, the baseline"
        register(Algorithm(name, NATIVE, native, about, dtypes=()))
    if direct is not None:
        register(Algorithm(name, "direct", direct, summary))


def _named(native: Callable[..., Any], op: str) -> str:
    if native is getattr(torch, op, None) and native is not getattr(F, op, None):
        return f"torch.{op}"
    return f"torch.nn.functional.{op}" if hasattr(F, op) else f"{native.__module__}.{op}"


def get_op(name: str) -> Callable[..., Any]:
    """The public function of the op ``name``; raises :class:`UnknownAlgorithmError`."""
    if name not in _OPS:
        raise UnknownAlgorithmError(f"unknown op '{name}'; known: {', '.join(sorted(_OPS))}")
    return _OPS[name]


def is_activation(op: str) -> bool:
    """Whether ``op`` can be called with nothing but a tensor, of any shape."""
    parameters = inspect.signature(get_op(op)).parameters.values()
    return sum(parameter.default is parameter.empty for parameter in parameters) == 1


def _others(
    op: str, input: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """All arguments of ``op`` beside the input, by position."""
    bound = inspect.signature(_OPS[op]).bind(input, *args, **kwargs)
    bound.apply_defaults()
    return bound.args[1:]


def register(algorithm: Algorithm) -> Algorithm:
    """Enter ``algorithm``; raises ``ValueError`` if its op has one of that name already."""
    known = _REGISTRY.setdefault(algorithm.op, {})
    if algorithm.name in known:
        raise ValueError(f"{algorithm.op} has an algorithm named '{algorithm.name}' already")
    known[algorithm.name] = algorithm
    return algorithm


def op_names() -> tuple[str, ...]:
    """Names of all ops that have at least one algorithm, sorted."""
    return tuple(sorted(_REGISTRY))


def algorithm_names(op: str) -> tuple[str, ...]:
    """Names of the algorithms of ``op``, sorted; raises :class:`UnknownAlgorithmError`.

    Examples:
        >>> from cnnexp import ops
        >>> ops.algorithm_names("conv2d")
        ('depthwise', 'direct', 'fft', 'im2col', 'implicit_gemm', 'narrow', 'native', 'reference')
    """
    if op not in _REGISTRY:
        raise UnknownAlgorithmError(f"unknown op '{op}'; known: {', '.join(op_names())}")
    return tuple(sorted(_REGISTRY[op]))


def get_algorithm(op: str, name: str) -> Algorithm:
    """The algorithm ``name`` of ``op``, or with ``"auto"`` the one that chooses.

    Raises:
        UnknownAlgorithmError: With the known names.

    Examples:
        >>> from cnnexp import ops
        >>> ops.get_algorithm("conv2d", "im2cool")
        Traceback (most recent call last):
            ...
        cnnexp.ops.registry.UnknownAlgorithmError: unknown algorithm 'im2cool' for conv2d; known: ...
    """
    known = _REGISTRY.get(op, {})
    if name in known:
        return known[name]
    names = algorithm_names(op)
    if name == AUTO:
        if not _auto:
            import_module(_CHOOSER)
        return _auto[0](op)
    raise UnknownAlgorithmError(_unknown(name, op, names))


def resolve_algorithm(op: str, name: str) -> str:
    """``name`` where ``op`` has it, else ``"direct"``: one name for all layers of a network.

    Many ops have a single formula and therefore only ``direct`` and ``native``.

    Raises:
        UnknownAlgorithmError: No op at all has an algorithm ``name``.

    Examples:
        >>> from cnnexp import ops
        >>> ops.resolve_algorithm("conv2d", "im2col"), ops.resolve_algorithm("relu", "im2col")
        ('im2col', 'direct')
    """
    if name in algorithm_names(op) or name == AUTO:
        return name
    known = sorted({each for other in _REGISTRY.values() for each in other})
    if name not in known:
        raise UnknownAlgorithmError(_unknown(name, "any op", known))
    return "direct"


def set_auto(make: Callable[[str], Algorithm]) -> None:
    """Let ``get_algorithm(op, "auto")`` return ``make(op)``."""
    _auto[:] = [make]


def _unknown(name: str, where: str, known: Sequence[str]) -> str:
    close = nearest(str(name), known)
    hint = f"; did you mean '{close}'?" if close else ""
    return f"unknown algorithm '{name}' for {where}; known: {', '.join(known)}, {AUTO}{hint}"
