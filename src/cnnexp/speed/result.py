"""The results of measurements, and their form in files."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from cnnexp.machine import processor_name
from cnnexp.runs.files import write_named
from cnnexp.tuning.paired import interval
from cnnexp.version import __version__


@dataclass
class Measured:
    """The measurement of one way to compute one thing.

    Attributes:
        what: What is computed, for example ``"step seed_cnn, batch 128"``.
        way: The way, for example ``"torch channels_last"`` or ``"cnnexp fused"``.
        milliseconds: Median milliseconds of each part: ``forward``, ``backward``, ``full``.
        low, high: First and third quartile of the full time, in milliseconds.
        rounds: How many times each part was measured.
        saved_megabytes: The memory that is kept for the backward besides the parameters; None if unknown.
        peak_megabytes: How far one step raises the memory that is held above what is held between steps
            without gradients; None if unknown. See ``cnnexp.tuning.memory.peak_bytes``.
        ratios: The full time divided by that of each way named, measured in the same rounds.
        beside: Of a way of ours: the name of torch's way with the same precision and layout.
        paired: The time by that of ``beside`` as the median of the rounds' ratios, and an interval that
            holds the true one with 90 % probability; None with less than 5 rounds.
        note: Why there is no figure.
    """

    what: str
    way: str
    milliseconds: dict[str, float] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    saved_megabytes: float | None = None
    ratios: dict[str, float] = field(default_factory=dict)
    note: str = ""
    peak_megabytes: float | None = None
    beside: str = ""
    paired: tuple[float, float, float] | None = None

    def flat(self) -> dict[str, Any]:
        """One row for a CSV file: a flat dictionary with rounded numbers."""
        row = {"what": self.what, "way": self.way}
        row |= {f"{part}_ms": round(ms, 4) for part, ms in self.milliseconds.items()}
        numbers = {"low_ms": self.low, "high_ms": self.high, "saved_mb": self.saved_megabytes}
        numbers["peak_mb"] = self.peak_megabytes
        if self.paired is not None:
            names = ("paired", "paired_low", "paired_high")
            numbers |= dict(zip(names, self.paired, strict=True))
        row |= {key: round(value, 4) for key, value in numbers.items() if value is not None}
        row |= {f"vs {name}": round(ratio, 3) for name, ratio in self.ratios.items()}
        return row | {"rounds": self.rounds, "note": self.note}


def not_measured(what: str, way: str, error: Exception) -> Measured:
    """The measurement that ``error`` prevented, with the reason as its note."""
    reason = f"not measured: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return Measured(what, way, note=reason)


def spread(times: Sequence[float]) -> tuple[float, float, float]:
    """Median, first and third quartile of ``times``: in milliseconds, from seconds."""
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
    return 1e3 * middle, 1e3 * low, 1e3 * high


def paired(ratios: Sequence[float]) -> tuple[float, float, float] | None:
    """Median of ``ratios`` and the interval that holds the true one with 90 %; None if they are too few."""
    low, high = interval(ratios)
    return None if math.isinf(high) else (statistics.median(ratios), low, high)


def conditions(device: torch.device) -> dict[str, Any]:
    """The conditions of a measurement: date, processor, threads, versions."""
    gpu = device.type == "cuda"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": torch.cuda.get_device_name(device) if gpu else processor_name(),
        "threads": torch.get_num_threads(),
        "cnnexp": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def flat_rows(rows: Sequence[Measured], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows with the conditions ``about``, as they stand in a CSV file."""
    return [{**row.flat(), **about} for row in rows]


def write_results(
    rows: Sequence[Measured],
    about: Mapping[str, Any],
    json_file: Path | None,
    csv_file: Path | None,
) -> None:
    """Write the rows with the conditions ``about`` to a JSON and a CSV file; None writes no such file.

    Folders that are not there are made: the measurement has taken its minutes by now.
    """
    for file in filter(None, (json_file, csv_file)):
        file.parent.mkdir(parents=True, exist_ok=True)
    if json_file is not None:
        content = {"conditions": dict(about), "rows": [asdict(row) for row in rows]}
        write_named(json_file, json.dumps(content, indent=1) + "\n")
    if csv_file is not None:
        flat = flat_rows(rows, about)
        columns = list(dict.fromkeys(key for row in flat for key in row))
        stream = io.StringIO()
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        write_named(csv_file, stream.getvalue())
