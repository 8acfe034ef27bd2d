"""Prove a differentiable function: your own autograd Function or Module, or an op of cnnexp.

Examples:
    A gradient that lacks a factor is found.

    >>> import torch
    >>> import cnnexp
    >>> class Square(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x
    ...     @staticmethod
    ...     def backward(ctx, grad_output):
    ...         return grad_output * ctx.saved_tensors[0]  # the 2 is missing
    >>> report = cnnexp.check(Square, [[torch.ones(2)]])
    >>> bool(report), report.verdicts["first derivative"].state
    (False, 'wrong')
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from cnnexp.proofs.agreement import judge_twin, shapes
from cnnexp.proofs.calls import Call, random_numbers
from cnnexp.proofs.cases import Case
from cnnexp.proofs.cuts import reached
from cnnexp.proofs.differences import Noise, noise_of
from cnnexp.proofs.gradients import Sent, judge_first_derivative
from cnnexp.proofs.habits import (
    judge_batched,
    judge_determinism,
    judge_dtypes,
    judge_inputs,
    judge_layouts,
)
from cnnexp.proofs.measures import can_require_grad, named_outputs
from cnnexp.proofs.report import ASPECTS, Report, Verdict
from cnnexp.proofs.second import judge_second_derivative
from cnnexp.proofs.subject import Subject

_FLOAT32_NOISE = Noise(2.4e-7)
_JUMP = 1e-3  # of the results' size: with more noise than this any gradient would agree


class Options(NamedTuple):
    """The aspects that are checked, each as :func:`check` explains it."""

    dtype_and_shape: bool = True
    first_derivative: bool = True
    second_derivative: bool = True
    batched: bool = True
    deterministic: bool = True
    inputs_unchanged: bool = True
    strict: bool = False
    elements: int = 1000


def check(
    function: Callable[..., Any],
    cases: Iterable[Case | Sequence[Any]],
    *,
    twin: Callable[..., Any] | None = None,
    dtype_and_shape: bool = True,
    first_derivative: bool = True,
    second_derivative: bool = True,
    batched: bool = True,
    deterministic: bool = True,
    inputs_unchanged: bool = True,
    strict: bool = False,
    elements: int = 1000,
    name: str | None = None,
) -> Report:
    """Prove ``function`` on ``cases``, and say what is wrong so that it can be corrected.

    Everything is computed in float64 where the function accepts it, else in float32. The function is
    differentiated with respect to every floating-point (or complex) tensor among its positional
    arguments, and to every parameter, and every buffer that requires a gradient, of the Modules that it
    is, is a method of, or names in its closure. Modules are restored to the bit.

    There is a verdict for each aspect: right, wrong, or not offered (it raises, or autograd cannot
    follow it). The report is true if nothing is wrong. Each aspect can be left out by its option.

    Args:
        function: An autograd Function (or its ``apply``), a Module, or any callable that returns
            tensors, alone or in tuples, lists and dicts.
        cases: The calls, each a sequence of positional arguments or a :class:`Case`, whose keyword
            arguments are not differentiated by. Keep them small. At a kink, such as a tie of a
            maximum, any slope between those of the two sides counts as right.
        twin: Computes the same in another way; all outputs and gradients are compared with it.
        dtype_and_shape: Whether outputs and gradients must have the inputs' precision, and arguments
            and gradients may be non-contiguous.
        first_derivative: Whether gradients are compared with central differences.
        second_derivative: Whether the gradients' own derivatives are compared with differences.
        batched: Whether gradients of several losses at once, and calls under ``torch.func.vmap``,
            must give what they give one by one.
        deterministic: Whether a second call, with the same random seed, must give the same bits.
        inputs_unchanged: Whether arguments and the incoming gradient must be left unchanged.
        strict: Whether an aspect that is not offered counts as wrong, and ``torch.autograd.gradcheck``
            and ``gradgradcheck`` have to agree: this is what cnnexp demands of its own ops.
        elements: At most this many elements of a tensor, and twice as many in all, are checked one by
            one; of larger tensors at least 16 are, drawn at random, and the rest along random directions.
        name: The name of the report; the function's or Module's own name if None.

    Returns:
        A :class:`Report`, true if nothing is wrong; printed, it shows all verdicts.

    Examples:
        >>> import torch
        >>> import cnnexp
        >>> bool(cnnexp.check(torch.nn.functional.softplus, [[torch.randn(3, 4)]]))
        True
    """
    aspects = dtype_and_shape, first_derivative, second_derivative, batched, deterministic
    options = Options(*aspects, inputs_unchanged, strict, elements)
    subject = Subject(function, name)
    report = Report(subject.name)
    for given in cases:
        case = given if isinstance(given, Case) else Case(list(given), {})
        report.cases += 1
        judge(report, subject, case, options, twin)
    if not report.cases:
        report.fail("there are no cases")
    return report


def judge(
    report: Report,
    subject: Subject,
    case: Case,
    options: Options,
    twin: Callable[..., Any] | None = None,
) -> None:
    """Add the verdicts on one call to ``report``; an exception of the function is a finding."""
    for aspect, option in ASPECTS.items():
        verdict = report.verdicts.setdefault(aspect, Verdict())
        verdict.left_out = not getattr(options, option)
    before = {aspect: len(verdict.missing) for aspect, verdict in report.verdicts.items()}
    try:
        with warnings.catch_warnings():
            # a warning of torch.compile, which reads the .grad of its inputs
            warnings.filterwarnings("ignore", ".*attribute of a Tensor that is not a leaf.*")
            subject = _looked_into(report, subject, case)
            _judge_in_best_dtype(report, subject, case, options, twin)
    except Exception as error:  # any exception of a user's function is a finding
        report.fail(f"{shapes(case)}: {type(error).__name__}: {error}")
    if options.strict:
        for aspect, verdict in report.verdicts.items():
            for line in verdict.missing[before.get(aspect, 0) :]:
                report.fail(f"{aspect}: not offered: {line}")


def _looked_into(report: Report, subject: Subject, case: Case) -> Subject:
    """The subject with everything that it and its arguments hold, and with lazy layers initialised."""
    names = subject.argument_names(case.tensors, case.arguments)
    for name, value in (*zip(names, case.tensors, strict=True), *case.arguments.items()):
        if isinstance(value, torch.nn.Module):
            subject.look_into(name, value)
    lazy = subject.uninitialised()
    if lazy:
        if not isinstance(subject.call, torch.nn.Module):
            raise ValueError(f"{lazy[0]} has no shape yet, its layer is lazy: call it once before")
        with random_numbers(0), torch.no_grad():
            copied = copy.deepcopy(subject.call)
            copied(*case.tensors, **case.arguments)
        report.note("it has lazy layers: a copy of it, initialised by its first call, was proved")
        subject = Subject(copied, subject.name)
    for dtype in (torch.float64, torch.float32):
        with Call(subject, case, dtype) as call:
            try:
                run = call.run()
            except Exception:  # the judgement of the call reports it
                continue
            own = {id(leaf) for leaf in run.leaves}
            subject.note_reached([t for t in reached(run.differentiable()) if id(t) not in own])
            break
    return subject


def _judge_in_best_dtype(
    report: Report,
    subject: Subject,
    case: Case,
    options: Options,
    twin: Callable[..., Any] | None,
) -> None:
    """Judge the call in float64 or, where that raises, in float32."""
    refusals: list[Exception] = []
    for dtype in (torch.float64, torch.float32):
        with Call(subject, case, dtype) as call:
            try:
                call.run()
            except Exception as error:
                refusals.append(error)
                continue
            if refusals and options.dtype_and_shape:
                text = f"float64: {type(refusals[0]).__name__}: {refusals[0]}"
                report.missing("dtype and shape", text)
            call.settle()
            noise = _judge_call(report, call, options, twin)
            if twin is not None:
                judge_twin(report, call, twin, noise)
            if options.strict and not refusals:
                _agree_with_gradcheck(subject.call, case.to(torch.float64), options)
            return
    raise refusals[0]


def _judge_call(
    report: Report, call: Call, options: Options, twin: Callable[..., Any] | None
) -> Noise:
    """Judge all aspects that ``options`` ask for; the precision with which the call computes."""
    subject, run = call.subject, call.run()
    sent = Sent(run)
    subject.named_after(sent.outputs(run))
    report.name = subject.name
    if not call.leaves:
        raise TypeError("there is nothing to differentiate by: no floating-point tensor among the "
                        "positional arguments, no parameter")  # fmt: skip
    if not run.outputs:
        raise TypeError("the function returns no tensor")
    noise = _FLOAT32_NOISE
    if not sent.kept:
        report.wrong("first derivative", "no output requires a gradient: autograd sees no way back")
        return noise
    if call.dtype == torch.float64:
        noise = noise_of(lambda values: sent.row(call, values), call.values())
    if options.dtype_and_shape:
        judge_dtypes(report, call, sent, noise)
        judge_layouts(report, call, sent, noise)
    if options.first_derivative:
        _say_unchecked(report, subject, noise)
        judge_first_derivative(report, call, sent, noise, options.elements)
    if options.second_derivative:
        judge_second_derivative(report, call, sent, noise)
    if options.batched:
        beside = None
        if twin is not None and options.strict:
            beside = Call(Subject(twin), call.case, call.dtype)
        judge_batched(report, call, sent, noise, beside)
    if options.deterministic:
        judge_determinism(report, call, sent)
    if options.inputs_unchanged:
        judge_inputs(report, call, sent)
    return noise


def _say_unchecked(report: Report, subject: Subject, noise: Noise) -> None:
    if noise.relative > _JUMP:
        report.missing(
            "first derivative",
            f"the function jumps at these values, or is noise, by {noise.relative:.0e} of its size: no "
            f"difference tells a derivative; give other values",
        )
    for name, tensor in subject.trained:
        if tensor.is_complex():
            report.missing("first derivative", f"{name} is complex: ∂L/∂{name} is not checked")


def _agree_with_gradcheck(function: Callable[..., Any], case: Case, options: Options) -> None:
    def outputs(*tensors: Any) -> tuple[Tensor, ...]:
        given = named_outputs(function(*tensors, **case.arguments))
        return tuple(t for _, t in given if t.is_floating_point())

    inputs = [
        t.detach().clone().requires_grad_() if isinstance(t, Tensor) and can_require_grad(t) else t
        for t in case.tensors
    ]
    with warnings.catch_warnings():
        # vmap's warning about performance does not matter here
        warnings.filterwarnings("ignore", ".*performance drop.*")
        gradcheck(
            outputs,
            inputs,
            check_batched_grad=options.batched,
            check_undefined_grad=True,
            check_grad_dtypes=True,
        )
        if options.second_derivative:
            gradgradcheck(outputs, inputs)
