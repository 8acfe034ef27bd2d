"""Every op and algorithm on the calls that networks make: its error, its time and its memory.

The error of output and gradients is taken against float64 on the same, rounded numbers, as the length
of the difference divided by the length of the truth, and compared with the error of torch's own.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cnnexp import ops, speed
from cnnexp.proofs.devices import twin_on
from cnnexp.proofs.torch_twins import called
from cnnexp.tuning.timing import interleaved_times
from gpu_parts.decided import decided
from gpu_parts.rows import Rows, peak_of

__all__ = ["run"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_ON_CPU = ("one small image", "1000 classes")
_ROUNDINGS = 16  # relative errors below so many are no sign of a wrong formula
_UNTIMED = ("reference",)  # loops over the windows


def run(rows: Rows) -> None:
    """All situations of ``bench ops``, on a CPU the smallest of a few ops."""
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    for situation in speed.SITUATIONS:
        if not rows.on_gpu and situation.about not in _ON_CPU:
            continue
        for dtype in _DTYPES:
            _situation(rows, situation, dtype)


def _situation(rows: Rows, situation: Any, dtype: torch.dtype) -> None:
    op, device = situation.op, rows.device
    what = " ".join(filter(None, (op, situation.about, str(dtype).removeprefix("torch."))))
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator) for shape in situation.shapes]
    tensors = [_last(t).to(device, dtype) for t in drawn]
    arguments = {
        k: v.to(device) if isinstance(v, Tensor) else v for k, v in situation.arguments.items()
    }
    ways: dict[str, Callable[[], list[Tensor]]] = {}
    errors: dict[str, float] = {}
    results = partial(_results, sure=_sure(op, tensors, arguments, dtype))
    with rows.trying(what, "torch") as row:
        wide = [t.double() for t in tensors]
        # the twin of ours in ``dtype``: on a GPU the masks of dropout are our own draw
        exact = results(twin_on(device, op, "direct"), wide, arguments)
        theirs = partial(results, called(op, None), tensors, arguments)
        judge = partial(results, twin_on(device, op, "direct"), tensors, arguments)
        errors["torch"] = _error(judge(), exact)
        ways["torch"] = theirs
        row |= {"value": errors["torch"], "unit": "relative error"}
    if "torch" not in errors:
        return
    for name in ops.algorithm_names(op):
        with rows.trying(what, name) as row:
            ours = partial(results, called(op, name), tensors, arguments)
            with peak_of(device) as peak:
                found = ours()
                row["peak_mb"] = peak()
            dropped_otherwise = op == "dropout" and name == "native" and rows.on_gpu
            error = errors["torch"] if dropped_otherwise else _error(found, exact)
            allowed = max(2 * errors["torch"], _ROUNDINGS * torch.finfo(dtype).eps)
            ratio = error / errors["torch"] if errors["torch"] else None
            row |= {"value": error, "unit": "relative error", "ratio": ratio}
            if not error <= allowed:
                row |= {"state": "failed", "note": f"torch's is {errors['torch']:.2g}"}
            if name not in _UNTIMED:
                ways[name] = ours
    _time(rows, what, ways)


def _time(rows: Rows, what: str, ways: dict[str, Callable[[], Any]]) -> None:
    with rows.trying(what, "all ways, in turn") as row:
        times = interleaved_times(ways, rows.device, rounds=5 if rows.on_gpu else 1)
        medians = {name: statistics.median(each) for name, each in times.items()}
        row["note"] = "forward and backward"
    for name in ways if row["state"] == "ok" else ():
        ratio = medians[name] / medians["torch"]
        rows.add(what, name, value=1e3 * medians[name], unit="ms", ratio=ratio)


def _results(
    function: Callable[..., Any],
    tensors: Sequence[Tensor],
    arguments: dict[str, Any],
    sure: Tensor | None,
) -> list[Tensor]:
    """Output and gradients, of the elements of the output that are ``sure``."""
    inputs = [t.detach().requires_grad_() for t in tensors]
    output = function(*inputs, **arguments)
    output = output[0] if isinstance(output, tuple) else output
    with torch.no_grad():  # the same in every dtype: numbers that each of them holds
        weights = (torch.arange(output.numel(), device=output.device) % 7 - 3).view(output.shape)
        weights = weights if sure is None else weights * sure
    grads = torch.autograd.grad(output, inputs, weights.to(output.dtype))
    return [output.detach(), *grads]


def _sure(
    op: str, tensors: Sequence[Tensor], arguments: dict[str, Any], dtype: torch.dtype
) -> Tensor | None:
    """Which elements of the output are judged by their gradients; None for all."""
    if op != "conv_relu_pool":
        return None
    return decided([t.double() for t in tensors], arguments, dtype)


def _error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The greatest of the tensors' relative errors."""
    worst = 0.0
    for one, other in zip(found, exact, strict=True):
        scale = other.norm()
        difference = (one.double() - other).norm()
        worst = max(worst, (difference / scale if scale > 0 else difference).item())
    return worst


def _last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
