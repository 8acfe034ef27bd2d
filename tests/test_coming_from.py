"""Every command of the page for those who come from elsewhere is run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

import cnnexp
from tests.conftest import ROOT, Command

PAGE = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
COMMANDS = [c for row in ROWS for c in re.findall(r"`python -m (cnnexp\.[^`]+)`", row)]
OF_A_RUN = ("run=", "init_from=")
CHECKED = [
    c for c in COMMANDS if c.startswith("cnnexp.train") and not any(key in c for key in OF_A_RUN)
]


def test_there_is_a_command_for_each_wish() -> None:
    wishes = [row for row in ROWS if not row.startswith("| ---")]
    assert len(wishes) == 15
    assert all("`python -m cnnexp." in row.split("|")[-2] for row in wishes)


@pytest.mark.parametrize("line", CHECKED)
def test_a_training_is_one_that_can_start(line: str, command: Command, empty_folder: Path) -> None:
    done = command(*shlex.split(line), "data=digits", "validate_only=true")
    assert done.returncode == 0, done.stderr
    assert "can start" in done.stdout


@pytest.mark.filterwarnings("ignore")
def test_the_others_are_run_on_a_run(command: Command, empty_folder: Path) -> None:
    cnnexp.fit("tiny", "digits", epochs=1, accelerator="cpu", backward="direct", progress=False,
               overrides={"data.train_size": 40, "data.val_size": 10})  # fmt: skip
    pixels = torch.zeros(28, 28, dtype=torch.uint8)
    pixels[6:22, 13:15] = 255
    Image.fromarray(pixels.numpy()).save("digit.png")
    for line in COMMANDS:
        if line not in CHECKED:
            more = ("data=digits", "validate_only=true") if "init_from=" in line else ()
            done = command(*shlex.split(line), *more)
            assert done.returncode == 0, (line, done.stderr)
    assert (empty_folder / "my_lab" / "Makefile").is_file()
