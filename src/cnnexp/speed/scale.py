"""All axes along which cost is measured, in one order and by one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cnnexp.speed.axes import STEP_AXES, bench_axis
from cnnexp.speed.data_size import DATA_SIZES, bench_data
from cnnexp.speed.roofline import bench_layers, machine_rates
from cnnexp.speed.scaled import Scaled

__all__ = ["AXES", "DATA", "ROOFLINE", "ScaleSettings", "bench_scale", "least_value", "values_of"]

DATA, ROOFLINE = "data", "roofline"
AXES = (DATA, *STEP_AXES, ROOFLINE)
_LAYERS_BATCH = 128  # that of the article


@dataclass(frozen=True)
class ScaleSettings:
    """What is measured along an axis.

    Attributes:
        device: The device of the steps and of the roofline.
        batch_size: Images a step, ≥ 1, along all axes of steps but the batch; see also ``bench_data``, whose
            batches have 128.
        algorithms: Our algorithms.
        rounds: How often each way is timed.
        limit: Seconds that the rounds of one value may take, see ``bench_axis``.
        folder: Where the mapped files lie; None for the system's temporary folder.
    """

    device: torch.device
    batch_size: int = 16
    algorithms: Sequence[str] = ("auto",)
    rounds: int = 15
    limit: float = 10.0
    folder: Path | None = None


def values_of(axis: str) -> tuple[int, ...]:
    """The values at which ``axis`` is measured if nobody says otherwise; none of ``roofline``."""
    if axis == DATA:
        return DATA_SIZES
    return STEP_AXES[axis].values if axis in STEP_AXES else ()


def least_value(axis: str) -> int:
    """The least value that ``axis`` takes."""
    return STEP_AXES[axis].least if axis in STEP_AXES else 1


def bench_scale(axis: str, values: Sequence[int], settings: ScaleSettings) -> Iterator[Scaled]:
    """Measure along ``axis`` at ``values``; rows come as they are measured.

    ``data`` is :func:`~cnnexp.speed.data_size.bench_data`; ``roofline`` the machine's rates and the article's
    layers; the others are :func:`~cnnexp.speed.axes.bench_axis`.
    """
    if axis == DATA:
        yield from bench_data(values, _LAYERS_BATCH, folder=settings.folder, rounds=settings.rounds)
    elif axis == ROOFLINE:
        machine = machine_rates(settings.device, min(5, settings.rounds))
        yield from machine
        yield from bench_layers(
            _LAYERS_BATCH, machine, device=settings.device, rounds=settings.rounds
        )
    else:
        yield from bench_axis(
            axis,
            values,
            settings.algorithms,
            batch_size=settings.batch_size,
            device=settings.device,
            rounds=settings.rounds,
            limit=settings.limit,
        )
