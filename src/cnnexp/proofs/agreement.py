"""Agreement with a twin, another computation of the same function: values, gradients, refusals, precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnexp.proofs.calls import Call, Run, random_numbers
from cnnexp.proofs.cases import Case
from cnnexp.proofs.differences import Noise
from cnnexp.proofs.gradients import gradients, signed
from cnnexp.proofs.measures import largest_error, values_and_gradients
from cnnexp.proofs.report import TWIN, Report
from cnnexp.proofs.subject import Subject

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
        _compare(report, function, twin, case)
    except Exception as error:
        report.fail(f"{shapes(case)}: {type(error).__name__}: {error}")


def _compare(
    report: Report, function: Callable[..., Any], twin: Callable[..., Any], case: Case
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
    if not error <= TWIN_TOLERANCE:
        report.fail(f"{shapes(case)}: differs from torch by {error:.1e}")


def judge_twin(report: Report, call: Call, twin: Callable[..., Any], noise: Noise) -> None:
    """Compare with ``twin``, as exactly as the call computes: every output, and the gradients.

    These are the gradients by the arguments and by what both hold, such as the weights of one layer.
    """
    report.verdict(TWIN)
    tolerance = 100 * noise.relative if noise.coarse else TWIN_TOLERANCE
    run = call.run()
    with Call(Subject(twin), call.case, call.dtype) as other:
        beside = other.run()
        ours, theirs = ([t for _, t in each.outputs] for each in (run, beside))
        if len(ours) != len(theirs):
            report.wrong(TWIN, f"tensors given: {len(ours)}, by the twin {len(theirs)}")
            return
        names = [name for name, _ in run.outputs]
        pairs = list(zip(names, ours, theirs, strict=True))
        if all(one.shape == two.shape for one, two in zip(ours, theirs, strict=True)):
            pairs += _gradients_beside(call, run, other, beside)
    for name, one, two in pairs:
        if one.dtype != two.dtype:
            report.wrong(TWIN, f"{name} is {one.dtype}, the twin's {two.dtype}")
        if one.shape != two.shape:
            sizes = (str(tuple(each.shape)) for each in (one, two))
            report.wrong(TWIN, "{} has the shape {}, the twin's {}".format(name, *sizes))
            continue
        error = report.worst("torch", largest_error([one], [two]))
        if not error <= tolerance:
            case = shapes(call.case)
            report.wrong(TWIN, f"{case}: {name} differs from the twin's by {error:.1e}")


def _gradients_beside(
    call: Call, run: Run, other: Call, beside: Run
) -> list[tuple[str, Tensor, Tensor]]:
    """Name, own and the twin's gradient of each leaf of both, for outputs that are differentiable in both."""
    generator = torch.Generator().manual_seed(7)
    sent = [
        (one, two, signed(one, generator))
        for (_, one), (_, two) in zip(run.outputs, beside.outputs, strict=True)
        if one.requires_grad and two.requires_grad
    ]
    if not sent:
        return []
    ours, theirs, weights = (list(each) for each in zip(*sent, strict=True))
    found = dict(zip(_keys(call), gradients(run, ours, weights), strict=True))
    true = dict(zip(_keys(other), gradients(beside, theirs, weights), strict=True))
    pairs = []
    for leaf, key in zip(call.leaves, _keys(call), strict=True):
        one, two = found[key], true.get(key)
        if key in true and not (one is None and two is None):
            zeros = torch.zeros_like(leaf.value)
            pairs.append(
                (f"∂L/∂{leaf.name}", zeros if one is None else one, zeros if two is None else two)
            )
    return pairs


def _keys(call: Call) -> list[int]:
    """What tells a leaf of two calls with the same arguments: its place there, or the tensor that is held."""
    return [place if leaf.held is None else id(leaf.held) for place, leaf in enumerate(call.leaves)]


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
