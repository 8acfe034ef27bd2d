"""Kernels as torch operators, ``cnnexp::<name>``, which torch.compile and vmap can carry.

An operator takes tensors and numbers only. A kernel takes the geometry of its windows as a typed record;
here, and nowhere else, the record becomes a list of ints for torch's dispatcher and a record again.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.windows import WindowGeometry

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


# not by ``torch.library.custom_op``, whose checks at each call take longer than a small kernel
_LIBRARY = torch.library.Library("cnnexp", "FRAGMENT")


def operator(
    name: str, results: Callable[..., Any]
) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Make a function the operator ``cnnexp::<name>``; it is called with positional arguments.

    What torch registered is its attribute ``operator``. vmap maps over it by one call for each element.

    Args:
        name: Speaks for itself among the operators of all libraries.
        results: Takes the same arguments, and gives empty tensors of the shapes, dtypes and memory
            formats that the function returns.
    """

    def make(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        hints = typing.get_type_hints(function)
        kinds = [hints[parameter] for parameter in inspect.signature(function).parameters]
        plain = not any(map(_is_record, kinds))

        def with_records(
            called: Callable[..., Any], unpack: Callable[..., Any], arguments: Sequence[Any]
        ) -> Any:
            both = zip(kinds, arguments, strict=True)
            return called(*[unpack(k, tuple(a)) if _is_record(k) else a for k, a in both])

        def flat(*arguments: Any) -> Any:
            if plain:
                return function(*arguments)  # pyright: ignore[reportCallIssue]
            return with_records(function, _kept_record, arguments)

        flat.__signature__ = _flat_signature(function, hints)  # pyright: ignore[reportFunctionMemberAccess]
        _LIBRARY.define(name + torch.library.infer_schema(flat, mutates_args=()))
        _LIBRARY.impl(name, flat, "CompositeExplicitAutograd")
        made = getattr(torch.ops.cnnexp, name).default

        def empty(*arguments: Any) -> Any:
            return with_records(results, _record, arguments)

        def mapped(_info: Any, dims: Any, *arguments: Any) -> Any:
            return _one_by_one(made, dims, arguments)

        torch.library.register_fake(f"cnnexp::{name}", empty, lib=_LIBRARY)
        torch.library.register_vmap(f"cnnexp::{name}", mapped, lib=_LIBRARY)

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            return made(*(arguments if plain else flat_arguments(arguments)))

        vars(call)["operator"] = made
        return call  # pyright: ignore[reportReturnType]

    return make


def undispatched(call: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """The function of an operator, for tensors that are nobody's subclass and stand in no transform.

    The way through torch's dispatcher takes as long as a small kernel.
    """
    return call.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]


def flat_arguments(arguments: Sequence[Any]) -> list[Any]:
    """``arguments`` as torch's dispatcher takes them: each record as a list of ints."""
    return [_pack(a) if isinstance(a, WindowGeometry) else a for a in arguments]


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, WindowGeometry)


def _flat_signature(function: Callable[..., Any], hints: dict[str, Any]) -> inspect.Signature:
    """The signature of ``function`` with lists of ints where it takes records."""
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=list[int] if _is_record(hints[name]) else hints[name])
        for name, parameter in signature.parameters.items()
    ]
    return signature.replace(parameters=parameters, return_annotation=hints["return"])


def _pack(geometry: WindowGeometry) -> list[int]:
    """The attributes of ``geometry`` in their order, a pair as two ints."""
    g = geometry
    numbers = [*g.input_size, *g.kernel_size, *g.stride, *g.padding, *g.dilation, int(g.ceil_mode)]
    return [*numbers, g.groups, *g.extra] if isinstance(g, Conv2dGeometry) else numbers


def _record(kind: type[WindowGeometry], numbers: Sequence[int]) -> WindowGeometry:
    """The record of ``kind`` that :func:`_pack` made ``numbers`` of."""
    pairs = [(numbers[i], numbers[i + 1]) for i in range(0, 10, 2)]
    if not issubclass(kind, Conv2dGeometry):
        return kind(*pairs, ceil_mode=bool(numbers[10]))
    groups, extra = numbers[11], (numbers[12], numbers[13])
    return kind(*pairs, ceil_mode=bool(numbers[10]), groups=groups, extra=extra)


# of known numbers: a graph may leave them open
_kept_record = functools.lru_cache(maxsize=256)(_record)


def _one_by_one(function: Any, dims: Sequence[int | None], arguments: Sequence[Any]) -> Any:
    mapped = [(a, d) for a, d in zip(arguments, dims, strict=True) if isinstance(d, int)]
    results = []
    for i in range(mapped[0][0].size(mapped[0][1])):
        at = [
            a.select(d, i) if isinstance(d, int) else a
            for a, d in zip(arguments, dims, strict=True)
        ]
        results.append(function(*at))
    if isinstance(results[0], tuple):
        stacked = tuple(torch.stack(each) for each in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)
    return torch.stack(results), 0


def new_image(like: Tensor, channels: int, size: tuple[int, int], dtype: Any = None) -> Tensor:
    """An empty (N, channels, *size) in channels_last memory."""
    made = like.new_empty(like.size(0), *size, channels, dtype=dtype or like.dtype)
    return made.permute(0, 3, 1, 2)


def spread_image(
    grad_output: Tensor, code: Tensor, pool: WindowGeometry, divisor: Tensor | None
) -> Tensor:
    """An empty result of a spread, from pooled elements to the image under the windows of ``pool``."""
    return new_image(grad_output, grad_output.size(1), pool.input_size)


def gathered_image(
    image: Tensor, code: Tensor, pool: WindowGeometry, divisor: Tensor | None
) -> Tensor:
    """An empty result of a gather, from an image to the windows of ``pool``."""
    return new_image(image, image.size(1), pool.output_size)
