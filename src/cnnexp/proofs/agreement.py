"""Agreement with a twin, another computation of the same function: values, gradients, refusals, precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnexp.proofs.calls import random_numbers
from cnnexp.proofs.cases import Case
from cnnexp.proofs.measures import largest_error, values_and_gradients
from cnnexp.proofs.report import Report

# The greatest error in float64 that is allowed, relative to the largest magnitude.
TWIN_TOLERANCE = 1e-10


def check_against_twin(
    report: Report, function: Callable[..., Any], twin: Callable[..., Any], case: Case
) -> None:
    """Check values and gradients against ``twin``; calls that it refuses must be refused with its
    exception.
    """
    try:
        values_and_gradients(twin, *case)
    except (RuntimeError, TypeError, ValueError, IndexError) as theirs:
        report.refused += 1
        try:
            values_and_gradients(function, *case)
        except type(theirs):
            return
        except Exception as ours:
            report.fail(f"{shapes(case)}: raises {ours!r}, torch {theirs!r}")
        else:
            report.fail(f"{shapes(case)}: accepted what torch refuses: {theirs!r}")
        return
    report.cases += 1
    try:
        compare(report, function, twin, case)
    except Exception as error:
        report.fail(f"{shapes(case)}: {type(error).__name__}: {error}")


def compare(
    report: Report,
    function: Callable[..., Any],
    twin: Callable[..., Any],
    case: Case,
    tolerance: float = TWIN_TOLERANCE,
) -> None:
    """Compare values, gradients and dtypes of ``function`` and ``twin`` on one call, by the same draws."""
    with random_numbers(0):
        values, grads = values_and_gradients(function, *case)
    with random_numbers(0):
        true_values, true_grads = values_and_gradients(twin, *case)
    if [t.dtype for t in (*values, *grads)] != [t.dtype for t in (*true_values, *true_grads)]:
        report.fail(f"{shapes(case)}: other dtypes than torch")
    error = largest_error([*values, *grads], [*true_values, *true_grads])
    report.worst("torch", error)
    if not error <= tolerance:
        report.fail(f"{shapes(case)}: differs from torch by {error:.1e}")


def low_precision_errors(
    report: Report,
    function: Callable[..., Any],
    twin: Callable[..., Any],
    case: Case,
    dtype: torch.dtype,
) -> tuple[float, float] | None:
    """The errors of ``function`` and of ``twin`` in ``dtype`` against float64.

    The result is None if torch refuses the call, or if ``function`` fails, which the report then says.
    """
    low = case.to(dtype)
    try:
        exact = values_and_gradients(twin, *low.to(torch.float64))
        theirs = values_and_gradients(twin, *low)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None
    report.cases += 1
    try:
        ours = values_and_gradients(function, *low)
    except Exception as error:
        report.fail(f"{shapes(case)} {dtype}: {type(error).__name__}: {error}")
        return None
    if [t.dtype for t in (*ours[0], *ours[1])] != [t.dtype for t in (*theirs[0], *theirs[1])]:
        report.fail(f"{shapes(case)} {dtype}: other dtypes than torch")
    true = exact[0] + exact[1]
    return largest_error(ours[0] + ours[1], true), largest_error(theirs[0] + theirs[1], true)


def shapes(case: Case) -> str:
    """A short description of the call: the tensors' shapes and the options."""
    sizes = ", ".join(map(_brief, case.tensors))
    options = ", ".join(f"{key}={_brief(value)}" for key, value in case.arguments.items())
    return f"({sizes}{'; ' if options else ''}{options})"


def _brief(value: Any) -> str:
    return f"{tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
