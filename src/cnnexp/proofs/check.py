"""Prove a differentiable function: your own ``torch.autograd.Function``, or an op of cnnexp."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from cnnexp.proofs.cases import Case
from cnnexp.proofs.measures import differences_error, largest_error, values_and_gradients
from cnnexp.proofs.report import Report

__all__ = ["check", "check_against_twin", "check_derivatives", "low_precision_errors"]

# Of errors relative to the largest magnitude, in float64.
DIFFERENCES_TOLERANCE = 1e-6
TWIN_TOLERANCE = 1e-10


def check(
    function: Callable[..., Any],
    cases: Iterable[Case | Sequence[Tensor]],
    *,
    twin: Callable[..., Any] | None = None,
    second_derivative: bool = True,
    batched: bool = True,
    name: str | None = None,
) -> Report:
    """Prove ``function`` on ``cases``.

    In float64 its gradients are compared with central differences, element by element, and handed
    to ``torch.autograd.gradcheck`` with undefined gradients, gradient dtypes and batched gradients;
    the derivative of its gradients likewise. Inputs must come out unchanged, and a second call must
    give the same bits.

    Args:
        function: Takes tensors; returns a tensor, or a tuple whose first element is looked at.
        cases: The calls, each a sequence of tensors or a :class:`Case`. Keep them small, and away
            from kinks: a maximum of equals has no derivative to compare with.
        twin: Computes the same in another way; values and gradients are compared with it.
        second_derivative: Whether the gradients must be differentiable as well.
        batched: Whether gradients must work under ``torch.func.vmap``.
        name: Of the report; the function's own name if None.

    Returns:
        A :class:`Report`, true if nothing failed.
    """
    report = Report(name or getattr(function, "__name__", type(function).__name__))
    for given in cases:
        case = given if isinstance(given, Case) else Case(list(given), {})
        case = Case([t.detach().double() for t in case.tensors], case.arguments)
        report.cases += 1
        try:
            check_derivatives(report, function, case, second_derivative, batched)
            if twin is not None:
                _compare(report, function, twin, case)
        except Exception as error:  # whatever a user's function raises is a finding
            report.fail(f"{_shapes(case)}: {type(error).__name__}: {error}")
    if not report.cases:
        report.fail("there are no cases")
    return report


def check_derivatives(
    report: Report,
    function: Callable[..., Any],
    case: Case,
    second_derivative: bool = True,
    batched: bool = True,
) -> None:
    """First and second derivative of one float64 case; purity; the same answer again."""
    error = report.worst("differences", differences_error(function, *case))
    if not error <= DIFFERENCES_TOLERANCE:
        report.fail(f"{_shapes(case)}: gradients differ from finite differences by {error:.1e}")

    def first(*tensors: Tensor) -> Tensor:
        output = function(*tensors, **case.arguments)
        return output[0] if isinstance(output, tuple) else output

    inputs = [t.detach().clone().requires_grad_() for t in case.tensors]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*performance drop.*")  # of vmap, here without weight
        gradcheck(
            first,
            inputs,
            check_batched_grad=batched,
            check_undefined_grad=True,
            check_grad_dtypes=True,
        )
        if second_derivative:
            gradgradcheck(first, inputs)
    one, other = (values_and_gradients(function, inputs, case.arguments) for _ in range(2))
    if not all(map(torch.equal, (*one[0], *one[1]), (*other[0], *other[1]))):
        report.fail(f"{_shapes(case)}: a second call gives another answer")
    if not all(map(torch.equal, inputs, case.tensors)):
        report.fail(f"{_shapes(case)}: an input was written to")


def check_against_twin(
    report: Report, function: Callable[..., Any], twin: Callable[..., Any], case: Case
) -> None:
    """Values and gradients as ``twin``; what it refuses must be refused with its exception."""
    try:
        values_and_gradients(twin, *case)
    except (RuntimeError, TypeError, ValueError, IndexError) as theirs:
        report.refused += 1
        try:
            values_and_gradients(function, *case)
        except type(theirs):
            return
        except Exception as ours:
            report.fail(f"{_shapes(case)}: raises {ours!r}, torch {theirs!r}")
        else:
            report.fail(f"{_shapes(case)}: accepted what torch refuses: {theirs!r}")
        return
    report.cases += 1
    try:
        _compare(report, function, twin, case)
    except Exception as error:
        report.fail(f"{_shapes(case)}: {type(error).__name__}: {error}")


def _compare(
    report: Report, function: Callable[..., Any], twin: Callable[..., Any], case: Case
) -> None:
    values, grads = values_and_gradients(function, *case)
    true_values, true_grads = values_and_gradients(twin, *case)
    if [t.dtype for t in (*values, *grads)] != [t.dtype for t in (*true_values, *true_grads)]:
        report.fail(f"{_shapes(case)}: other dtypes than torch")
    error = largest_error([*values, *grads], [*true_values, *true_grads])
    report.worst("torch", error)
    if not error <= TWIN_TOLERANCE:
        report.fail(f"{_shapes(case)}: differs from torch by {error:.1e}")


def low_precision_errors(
    report: Report,
    function: Callable[..., Any],
    twin: Callable[..., Any],
    case: Case,
    dtype: torch.dtype,
) -> tuple[float, float] | None:
    """The errors of ``function`` and of ``twin`` in ``dtype`` against float64.

    None if torch refuses the call, or ``function`` fails, which the report then says.
    """
    low = _cast(case, dtype)
    try:
        exact = values_and_gradients(twin, *_cast(low, torch.float64))
        theirs = values_and_gradients(twin, *low)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None
    report.cases += 1
    try:
        ours = values_and_gradients(function, *low)
    except Exception as error:
        report.fail(f"{_shapes(case)} {dtype}: {type(error).__name__}: {error}")
        return None
    true = exact[0] + exact[1]
    return largest_error(ours[0] + ours[1], true), largest_error(theirs[0] + theirs[1], true)


def _cast(case: Case, dtype: torch.dtype) -> Case:
    def cast(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    return Case([cast(t) for t in case.tensors], {k: cast(v) for k, v in case.arguments.items()})


def _shapes(case: Case) -> str:
    shapes = ", ".join(str(tuple(t.shape)) for t in case.tensors)
    options = ", ".join(f"{key}={_brief(value)}" for key, value in case.arguments.items())
    return f"({shapes}{'; ' if options else ''}{options})"


def _brief(value: Any) -> str:
    return f"{tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
