"""The battery of proofs: every registered op with every algorithm, in every dtype."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnexp import ops
from cnnexp.proofs.agreement import check_against_twin, low_precision_errors, shapes
from cnnexp.proofs.cases import CASES, SMOOTH_CASES, Case
from cnnexp.proofs.check import Options, judge
from cnnexp.proofs.devices import CPU, judged_on, moved, twin_on
from cnnexp.proofs.measures import values_and_gradients
from cnnexp.proofs.report import Report
from cnnexp.proofs.subject import Subject
from cnnexp.proofs.torch_twins import called


class Battery(NamedTuple):
    """The number of cases of each kind."""

    against_torch: int
    derivatives: int
    low_precision: int


BATTERY = Battery(against_torch=2000, derivatives=25, low_precision=200)
QUICK = Battery(against_torch=40, derivatives=1, low_precision=12)
_LOW = (torch.float32, torch.bfloat16, torch.float16)


class Row(NamedTuple):
    """One line of the table."""

    op: str
    algorithm: str
    dtype: str
    report: Report


def run_battery(
    battery: Battery,
    chosen: Sequence[str],
    algorithms: Sequence[str],
    seed: int = 0,
    device: torch.device = CPU,
) -> Iterator[Row]:
    """Check every algorithm among ``algorithms`` of every op in ``chosen``, in every dtype.

    Yields:
        One row for each op, algorithm and dtype.
    """
    for op in chosen:
        for algorithm in ops.algorithm_names(op):
            if algorithm in algorithms:
                yield _double(battery, op, algorithm, seed, device)
                for dtype in _LOW:
                    yield _low(battery, op, algorithm, dtype, seed, device)


def _double(battery: Battery, op: str, algorithm: str, seed: int, device: torch.device) -> Row:
    report = Report(f"{op} {algorithm}")
    ours, twin = called(op, algorithm), twin_on(device, op, algorithm)
    draw = _seeded(op, seed)
    with judged_on(device):
        while report.cases < battery.against_torch:
            check_against_twin(report, ours, twin, _drawn(op, draw, device))
        draw = _seeded(f"{op} smooth", seed)
        for _ in range(battery.derivatives):
            case = _accepted(op, draw, twin, device)
            judge(report, Subject(ours, report.name), case, Options(strict=True), twin)
    return Row(op, algorithm, "float64", report)


def _low(
    battery: Battery,
    op: str,
    algorithm: str,
    dtype: torch.dtype,
    seed: int,
    device: torch.device,
) -> Row:
    report = Report(f"{op} {algorithm} {dtype}")
    ours, twin = called(op, algorithm), twin_on(device, op, algorithm)
    draw = _seeded(op, seed)
    errors = []
    with judged_on(device):
        while report.cases < battery.low_precision:
            case = _drawn(op, draw, device)
            found = low_precision_errors(report, ours, twin, case, dtype)
            # where torch itself overflows there is no reference
            if found is not None and math.isfinite(found[1]):
                errors.append(found)
                if math.isinf(found[0]) and algorithm != ops.NATIVE:
                    report.fail(
                        f"{shapes(case)} {dtype}: not finite, or other shapes, unlike torch"
                    )
    if errors:
        # One rounding decides on which side of a kink a value falls, and then the gradients differ
        # entirely. And torch's own bfloat16 gradient of a grouped convolution of tiny channels_last
        # images sometimes reads uninitialised memory (seen with 2.14.1: errors of 1e22).
        wavers = op in ("batch_norm_act", "conv_relu_pool", "linear_act") or (op, algorithm) == (
            "conv2d",
            "native",
        )
        typical = statistics.median if wavers else statistics.mean
        mine, theirs = (typical(each) for each in zip(*errors, strict=True))
        report.low_precision = mine / theirs if theirs else 1.0
        # where torch happens to be exact, an error of a tenth of a rounding is allowed
        if not mine <= 2 * theirs + 0.1 * torch.finfo(dtype).eps:
            report.fail(f"{dtype}: an error of {mine:.1e}, more than twice torch's {theirs:.1e}")
    return Row(op, algorithm, str(dtype).removeprefix("torch."), report)


def negative_control(op: str, seed: int = 0, device: torch.device = CPU) -> Row:
    """Check ``op`` with gradients that are wrong by one per mille: the report must be false."""
    ours, twin = called(op, "direct"), twin_on(device, op, "direct")

    def wrong(*tensors: Tensor, **arguments: Any) -> Any:
        return ours(_SlightlyWrong.apply(tensors[0]), *tensors[1:], **arguments)

    report = Report(f"{op} wrong by 1/1000")
    draw = _seeded(f"{op} smooth", seed)
    with judged_on(device):
        while report.cases < 5 and report:
            case = _accepted(op, draw, twin, device)
            report.cases += 1
            judge(report, Subject(wrong, report.name), case, Options(second_derivative=False))
    return Row(op, "wrong on purpose", "float64", report)


class _SlightlyWrong(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor) -> Tensor:
        return input.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(_ctx: Any, grad_output: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad_output * 1.001


def _drawn(op: str, draw: random.Random, device: torch.device) -> Case:
    """The next random case that can be tried on ``device``."""
    while True:
        case = moved(CASES[op](draw), device)
        if case is not None:
            return case


def _accepted(op: str, draw: random.Random, twin: Callable[..., Any], device: torch.device) -> Case:
    """A smooth case that torch accepts and whose gradients are not all 0."""
    while True:
        case = moved(SMOOTH_CASES[op](draw), device)
        if case is None:
            continue
        try:
            values, grads = values_and_gradients(twin, *case)
        except (RuntimeError, TypeError, ValueError, IndexError):
            continue
        finite = all(t.isfinite().all() for t in (*values, *grads))
        if finite and values[0].numel() and grads[0].abs().max() > 0.01:
            return case


def _seeded(name: str, seed: int) -> random.Random:
    torch.manual_seed(seed)
    return random.Random(f"{name} {seed}")
