"""A notebook is executed by a real kernel, whose asyncio loop is running."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip(
    "nbclient", reason="no nbclient here: pip install nbclient ipykernel"
)
pytest.importorskip("ipykernel", reason="no ipykernel here: pip install nbclient ipykernel")
nbformat = pytest.importorskip("nbformat")  # nbclient needs it: it is there where nbclient is

ROOT = Path(__file__).resolve().parents[2]
CELLS = (
    "import asyncio, cnnexp\nasyncio.get_running_loop().is_running()",
    "run = cnnexp.fit('tiny', 'synthetic', epochs=2, accelerator='cpu', backward='direct', overrides="
    "{'data.size': 60, 'data.val_size': 10, 'data.image_size': 8})",
    "run.metrics",
    "run.metrics.plot('train/loss', 'val/loss')",
    "cnnexp.fit('tinny', progress=False)",
)


@pytest.mark.filterwarnings("ignore")  # of the kernel's libraries
def test_cells_train_show_a_table_and_a_figure_and_say_what_is_wrong(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell(text) for text in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    client = nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute(env=environment)
    loop, fitted, table, figure, wrong = (cell["outputs"] for cell in notebook["cells"])
    assert _of(loop, "text/plain") == "True"
    written = "".join(each.get("text", "") for each in fitted)
    assert "run folder outputs/train/tiny/" in written
    assert "Epoch 1" in written  # the bar
    assert not any(each["output_type"] == "error" for each in [*fitted, *table, *figure])
    assert "<th>val/acc</th>" in _of(table, "text/html")
    assert _of(figure, "image/png")
    (error,) = wrong
    assert (error["ename"], error["evalue"].partition(":")[0]) == ("ConfigError", "model=tinny")
    assert len(list(tmp_path.glob("outputs/train/tiny/*/result.json"))) == 1


def _of(outputs: Any, kind: str) -> str:
    return next(each["data"][kind] for each in outputs if kind in each.get("data", {}))
