"""Averaged curves for TensorBoard: one entry per setting, with mean and interval, where runs are many."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from cnnexp.reporting.groups import Group


def write_aggregate(groups: Sequence[Group], folder: Path) -> None:
    """Replace ``folder`` by event files with each group's mean of each metric by epoch, and its interval.

    Tags are those of the runs; ``/low`` and ``/high`` are added for the interval's ends.
    """
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    shutil.rmtree(folder, ignore_errors=True)
    names: dict[str, int] = {}
    for group in groups:
        name = re.sub(r"[^\w.=+-]+", "_", group.name)[:120]
        names[name] = names.get(name, 0) + 1
        name += f"_{names[name]}" if names[name] > 1 else ""
        writer = EventFileWriter(str(folder / name))
        for metric in sorted({metric for run in group.runs for metric in run.curves}):
            curve = group.curve(metric)
            for end, values in (("", curve.mean), ("/low", curve.low), ("/high", curve.high)):
                for epoch, value in zip(curve.epochs, values, strict=True):
                    scalar = Summary.Value(tag=metric + end, simple_value=value)
                    writer.add_event(Event(step=epoch, summary=Summary(value=[scalar])))
        writer.close()
