"""The file of the steps that a private run has spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnexp.runs import RunFolder, RunFolderError, SpentSteps

MADE = {"noise_multiplier": 1.1, "sampling_rate": 0.25}


def test_every_attempt_adds_to_what_is_spent(tmp_path: Path) -> None:
    file = tmp_path / "privacy.jsonl"
    for steps in (2, 3):
        spent = SpentSteps(file)
        spent.begin(MADE)
        for _ in range(steps):
            spent.spend()
    spent.begin({**MADE, "noise_multiplier": 2.0})
    spent.spend()
    assert SpentSteps(file).segments == [(MADE, 5), ({**MADE, "noise_multiplier": 2.0}, 1)]
    assert SpentSteps(file).steps == spent.steps == 6


def test_nothing_is_spent_without_a_file(tmp_path: Path) -> None:
    spent = SpentSteps(tmp_path / "privacy.jsonl")
    spent.sync()
    assert spent.segments == []
    assert spent.steps == 0


def test_a_line_that_a_kill_cut_off_counts_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "privacy.jsonl"
    SpentSteps(file).begin(MADE)
    file.write_bytes(file.read_bytes() + b'.\n{"noise_mul')
    spent = SpentSteps(file)
    spent.begin({**MADE, "noise_multiplier": 2.0})
    spent.spend()
    assert SpentSteps(file).segments == [(MADE, 1), ({**MADE, "noise_multiplier": 2.0}, 1)]


@pytest.mark.parametrize("text", [".\n", "[1]\n", "{}\nhello\n", '{"noise_multiplier": "much"}\n'])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "privacy.jsonl"
    file.write_text(text)
    with pytest.raises(
        RunFolderError, match="so that nobody knows how much privacy the run has spent"
    ):
        SpentSteps(file)


def test_clearing_a_folder_keeps_what_is_spent(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    SpentSteps(folder.spent).begin(MADE)
    folder.clear()
    assert SpentSteps(folder.spent).segments == [(MADE, 0)]
    assert folder.spent in folder.files()
