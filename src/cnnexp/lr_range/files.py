"""What a learning-rate range test leaves in its folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnexp.lr_range.curve import LossCurve, Suggestion
from cnnexp.lr_range.picture import draw_curve
from cnnexp.runs.files import write_json, write_text


def write_files(
    folder: Path, curve: LossCurve, found: Suggestion | None, figures: Mapping[str, Any]
) -> None:
    """Write lr_find.csv (rate, loss, smoothed), lr_find.json (``figures``) and lr_find.png into ``folder``.

    Raises:
        OSError: A file cannot be written.
    """
    stream = io.StringIO()
    rows = csv.writer(stream)
    rows.writerow(("rate", "loss", "smoothed"))
    rows.writerows(zip(curve.rates, curve.losses, curve.smoothed, strict=True))
    write_text(folder / "lr_find.csv", stream.getvalue())
    write_json(folder / "lr_find.json", figures)
    title = (
        f"{figures['model']}, {figures['optimizer']}, batches of {figures['batch_size']:,} "
        f"({figures['dataset']}, seed {figures['seed']})"
    )
    draw_curve(curve, found, title, folder / "lr_find.png")
