"""The duties of a function besides being right: it keeps dtypes, layouts, batches, bits and its inputs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from cnnexp.proofs.calls import Call, Run, scattered
from cnnexp.proofs.cuts import draws
from cnnexp.proofs.differences import Noise
from cnnexp.proofs.gradients import Sent, signed
from cnnexp.proofs.measures import can_require_grad
from cnnexp.proofs.report import Report


def judge_dtypes(report: Report, call: Call, sent: Sent, noise: Noise) -> None:
    """Check that outputs and gradients have the inputs' precision."""
    aspect, wanted = "dtype and shape", str(call.dtype).removeprefix("torch.")
    report.verdict(aspect)
    run = call.run()
    for name, output in run.outputs:
        if output.is_floating_point() and output.dtype != call.dtype:
            dtype = str(output.dtype).removeprefix("torch.")
            report.wrong(aspect, f"{name} is {dtype} for a {wanted} input")
    if noise.coarse and not report.verdict(aspect).wrong and call.dtype == torch.float64:
        report.note(
            f"it computes to {noise.relative:.0e} inside, though its dtype is {wanted}; its gradients "
            f"are compared to {noise.tolerance:.0e}"
        )
    if noise.coarse or call.dtype != torch.float64:
        return
    for leaf, grad in zip(call.leaves, sent.gradients_unless_raised(run) or (), strict=False):
        if grad is not None and _has_digits_of_float32(grad):
            report.wrong(
                aspect,
                f"∂L/∂{leaf.name} has only float32's digits for a {wanted} input: is a tensor "
                "made without dtype=grad_output.dtype?",
            )


def _has_digits_of_float32(grad: Tensor) -> bool:
    if grad.numel() < 4 or not bool(grad.any()):
        return False
    whole = torch.equal((8 * grad).round(), 8 * grad)  # such numbers are short in any precision
    return torch.equal(grad.float().double(), grad.double()) and not whole


def judge_layouts(report: Report, call: Call, sent: Sent, noise: Noise) -> None:
    """Check that inputs and gradients with gaps in memory give the same numbers, or an error."""
    aspect, run = "dtype and shape", call.run()
    try:
        other = call.run(strided=True)
        same = _all_close(sent.outputs(other), sent.outputs(run), noise)
        again = sent.gradients(other)
        expected = sent.gradients_unless_raised(run)
        right = expected is None or _all_close(again, expected, noise)
        # the order of random numbers may follow the layout, as that of torch's dropout does
        if not (same and right) and not draws(call) and not _follows_seed(call, sent, run, noise):
            what = "gradient" if same else "result"
            report.wrong(aspect, f"an input that is not contiguous gives another {what}")
    except Exception as error:
        text = "inputs that are not contiguous"
        report.missing(aspect, f"{text}: {type(error).__name__}: {error}")
    outputs = sent.outputs(run)
    ones = [torch.ones_like(t, memory_format=torch.contiguous_format) for t in outputs]
    loose = [scattered(w) for w in sent.weights]
    wide = [torch.ones((), dtype=t.dtype, device=t.device).expand_as(t) for t in outputs]
    cases = {
        "a gradient that is not contiguous": (sent.weights, loose),
        "the expanded gradient that .sum() sends back": (ones, wide),
    }
    for what, (plain, strange) in cases.items():
        expected = sent.gradients_unless_raised(run, plain)
        if expected is None:
            return
        try:
            found = sent.gradients(run, strange)
        except Exception as error:
            report.missing(aspect, f"{what}: {type(error).__name__}: {error}")
            continue
        if not _all_close(found, expected, noise):
            report.wrong(aspect, f"{what} gives another result than the same numbers in order")


def _follows_seed(call: Call, sent: Sent, run: Run, noise: Noise) -> bool:
    return not _all_close(sent.outputs(call.run(seed=1)), sent.outputs(run), noise)


def judge_batched(
    report: Report, call: Call, sent: Sent, noise: Noise, twin: Call | None = None
) -> None:
    """Check gradients for several grad_output at once, and the call under ``torch.func.vmap``."""
    aspect = "batched (vmap)"
    report.verdict(aspect)
    run, generator = call.run(), torch.Generator().manual_seed(23)
    outputs = sent.outputs(run)
    several = [[signed(w, generator) for w in sent.weights] for _ in range(2)]
    found = (sent.gradients_unless_raised(run, weights) for weights in several)
    each = [grads for grads in found if grads is not None]
    if len(each) < len(several):
        return
    with warnings.catch_warnings():
        # vmap's warning about performance does not matter here
        warnings.filterwarnings("ignore", ".*performance drop.*")
        try:
            stacked = torch.autograd.grad(
                outputs,
                run.leaves,
                [torch.stack(pair) for pair in zip(*several, strict=True)],
                allow_unused=True,
                retain_graph=True,
                is_grads_batched=True,
            )
        except Exception as error:
            report.missing(aspect, f"batched gradients: {type(error).__name__}: {error}")
        else:
            for k in range(2):
                found = [None if t is None else t[k] for t in stacked]
                if not _all_close(found, each[k], noise):
                    report.wrong(aspect, "batched gradients differ from those one by one")
        _forward_batched(report, call, noise, twin)


def _forward_batched(report: Report, call: Call, noise: Noise, twin: Call | None) -> None:
    if all(leaf.held is not None for leaf in call.leaves):
        return  # no argument to stack
    near = [leaf.value * 1.01 if leaf.held is None else leaf.value for leaf in call.leaves]
    sets = [call.values(), near]
    try:
        expected = [[t for _, t in call.run(values).outputs] for values in sets]
        found = call.stacked(sets)
    except Exception as error:
        if twin is None or _stacks(twin):
            report.missing("batched (vmap)", f"torch.func.vmap: {type(error).__name__}: {error}")
        return
    for k, outputs in enumerate(expected):
        if not _all_close([t[k] for t in found], outputs, noise):
            report.wrong("batched (vmap)", "torch.func.vmap gives other results than one by one")
            return


def _stacks(call: Call) -> bool:
    try:
        call.stacked([call.values(), call.values()])
    except Exception:
        return False
    return True


def judge_determinism(report: Report, call: Call, sent: Sent) -> None:
    """Check that a second call, with the same random numbers, gives the same bits."""
    report.verdict("determinism")
    bits = []
    for _ in range(2):
        run = call.run()
        grads = sent.gradients_unless_raised(run) or []
        bits.append([t for t in (*(t for _, t in run.outputs), *grads) if t is not None])
    same = (torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*bits, strict=True))
    if not all(same):
        report.wrong("determinism", "a second call gives another answer")


def judge_inputs(report: Report, call: Call, sent: Sent) -> None:
    """Check that arguments, parameters and the incoming gradient are unchanged afterwards."""
    aspect = "inputs written to"
    report.verdict(aspect)
    run = call.run()
    given = [w.clone() for w in sent.weights]
    raised = sent.gradients_unless_raised(run, given) is None
    for leaf, passed, tensor in zip(call.leaves, run.passed, run.leaves, strict=True):
        now = tensor if passed is None else passed
        now = torch.view_as_real(now) if now.is_complex() else now
        if any(now is output for _, output in run.outputs):
            continue  # an in-place function, such as relu_, which autograd knows
        if not torch.equal(now.detach().nan_to_num(), leaf.value.nan_to_num()):
            report.wrong(aspect, f"{leaf.name} is written to")
    for name in call.written(run):
        report.wrong(aspect, f"{name} is written to")
    if not raised and not all(map(torch.equal, given, sent.weights)):
        report.wrong(aspect, "grad_output, the gradient that comes in, is written to")


def _all_close(
    found: Sequence[Tensor | None], expected: Sequence[Tensor | None], noise: Noise
) -> bool:
    for one, other in zip(found, expected, strict=True):
        if one is None or other is None:
            rest = other if one is None else one
            if rest is not None and bool(rest.any()):
                return False
            continue
        if one.shape != other.shape:
            return False
        if not can_require_grad(other):  # classes, masks
            if not torch.equal(one, other):
                return False
            continue
        scale = other.abs().nan_to_num(0, 0).max().item() if other.numel() else 0.0
        # a gradient that should be 0 is off by a few roundings, as the one sent back has size 1
        allowed = max(1e-9, 10 * noise.relative) * scale + max(1e-13, noise.relative)
        if not torch.allclose(one, other.to(one.dtype), rtol=0, atol=allowed, equal_nan=True):
            return False
    return True
