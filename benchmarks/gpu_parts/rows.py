"""The rows of the table, as a part of the benchmark hands them over."""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gpu_parts.columns import COLUMNS

__all__ = ["NeedsCudaError", "NeedsPackageError", "Rows", "peak_of", "whole_device"]

# After one of these a process can compute no more on the GPU.
_LOST = ("device-side assert", "illegal memory access", "misaligned address", "unspecified launch")


class NeedsCudaError(RuntimeError):
    """What was to be tried exists on a GPU only."""


class NeedsPackageError(RuntimeError):
    """What was to be tried needs a package that is not here."""


class Rows:
    """Writes the rows of one part to a file, one line of JSON each, as soon as they are known.

    Args:
        part: Name of the part.
        file: To append to; None keeps them in ``made`` alone.
        device: Where the part computes.
    """

    def __init__(self, part: str, file: Path | None, device: torch.device) -> None:
        self.part, self.file, self.device = part, file, device
        self.made: list[dict[str, Any]] = []

    @property
    def on_gpu(self) -> bool:
        """Whether sizes are to be those of a GPU; else they are tiny."""
        return self.device.type == "cuda"

    def add(self, what: str, way: str = "", state: str = "ok", **others: Any) -> None:
        """One row; ``others`` are further columns."""
        from cnnexp.speed import conditions

        about = conditions(self.device)
        row = {
            "part": self.part, "what": what, "way": way, "state": state,
            **{k: _short(v) for k, v in others.items()},
            "device": about["processor"], "torch": about["torch"],
            "cnnexp": about["cnnexp"], "date": about["date"],
        }  # fmt: skip
        assert set(row) <= set(COLUMNS), set(row) - set(COLUMNS)
        self.made.append(row)
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")

    @contextmanager
    def trying(self, what: str, way: str = "") -> Iterator[dict[str, Any]]:
        """A row whose further columns are put into the dictionary; an error makes it ``failed``.

        Raises:
            RuntimeError: The error is one after which this process cannot use the GPU any more.
        """
        columns: dict[str, Any] = {}
        start = time.perf_counter()
        with peak_of(self.device) as peak:
            try:
                yield columns
                if self.on_gpu:
                    torch.cuda.synchronize()
                columns.setdefault("state", "ok")
            except NeedsCudaError as error:
                columns |= {"state": "skipped", "note": f"needs cuda: {error}"}
            except NeedsPackageError as error:
                columns |= {"state": "skipped", "note": f"needs a package: {error}"}
            except Exception as error:
                traceback.print_exc(file=sys.stderr)
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                columns |= {"state": "failed", "note": reason}
        columns.setdefault("seconds", time.perf_counter() - start)
        columns.setdefault("peak_mb", peak())
        self.add(what, way, **columns)
        if any(lost in columns.get("note", "") for lost in _LOST):
            raise RuntimeError("the GPU is lost to this process; what was left is not measured")


@contextmanager
def peak_of(device: torch.device) -> Iterator[Callable[[], float]]:
    """Within it memory is watched; the function says how many MB there were at the peak."""
    if device.type != "cuda":
        yield lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        return
    torch.cuda.reset_peak_memory_stats(device)
    yield lambda: torch.cuda.max_memory_allocated(device) / 1e6


@contextmanager
def whole_device(device: torch.device) -> Iterator[Callable[[], float]]:
    """As :func:`peak_of`, for work in other processes: what the whole GPU holds beyond the start."""
    if device.type != "cuda":
        yield lambda: resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
        return
    used = [_used(device)]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            used.append(max(used.pop() if len(used) > 1 else 0.0, _used(device)))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: used[-1] - used[0]
    finally:
        over.set()
        thread.join()


def _used(device: torch.device) -> float:
    free, whole = torch.cuda.mem_get_info(device)
    return (whole - free) / 1e6


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return value[:600] if isinstance(value, str) else value
