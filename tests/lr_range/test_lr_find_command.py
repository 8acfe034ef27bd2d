"""``python -m cnnexp.lr_find`` as it is typed, in an empty folder."""

from __future__ import annotations

import csv
import errno
import json
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from cnnexp import lr_find
from tests.conftest import Command, InProcess
from tests.lr_range.test_range_test import SMALL


@pytest.fixture
def typed(in_process: InProcess, empty_folder: Path) -> InProcess:
    """Run the command in this process, in an empty folder: exit code, stdout, stderr."""
    return partial(in_process, lr_find)


def test_it_prints_the_setting_to_use_and_leaves_picture_and_curve(
    command: Command, empty_folder: Path
) -> None:
    done = command("cnnexp.lr_find", *SMALL, "optimizer=sgd", "--steps", "60", "--from=1e-4")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("suggested")]
    override = line.split()[1]
    assert override.startswith("optimizer.lr=")
    assert 1e-3 < float(override.partition("=")[2]) < 1
    assert line.endswith(
        ("(minimum / 10, the larger of the two)", "(steepest descent, the larger of the two)")
    )
    (folder,) = (empty_folder / "outputs" / "lr_find" / "tanh_cnn").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [
        *("lr_find.csv", "lr_find.json", "lr_find.png")
    ]
    assert done.stdout.splitlines()[-1] == str(folder.relative_to(empty_folder) / "lr_find.png")
    with Image.open(folder / "lr_find.png") as picture:
        assert picture.size[0] > 600
        assert len(picture.convert("L").getcolors() or ()) > 10  # something is drawn
    with (folder / "lr_find.csv").open() as file:
        rows = list(csv.DictReader(file))
    figures = json.loads((folder / "lr_find.json").read_text())
    assert len(rows) == figures["steps"]
    losses = {float(row["rate"]): float(row["smoothed"]) for row in rows}
    start, least = max(losses.values()), min(losses.values())
    assert losses[figures["minimum"]] < start - 0.85 * (start - least)  # most of its fall is made
    assert figures["override"] == override
    # no run: neither latest nor a report takes it for one
    assert not (empty_folder / "outputs" / "train").exists()
    assert command("cnnexp.train", "run=latest").returncode == 2


def test_json_is_all_that_stdout_has(typed: InProcess) -> None:
    code, out, _ = typed(*SMALL, "optimizer=sgd", "--steps=40", "--from=1e-3", "--json")
    assert code == 0
    found = json.loads(out)
    larger = max(found["steepest"], found["minimum"] / 10)
    assert found["suggestion"] == pytest.approx(larger, rel=0.05)
    assert (Path(found["folder"]) / "lr_find.png").exists()


def test_a_rate_that_the_config_does_not_name_is_added(typed: InProcess) -> None:
    code, out, _ = typed(*SMALL, "optimizer=sgd", "~optimizer.lr", "--steps=40", "--from=1e-3")
    assert code == 0
    assert "+optimizer.lr=" in out


def test_a_loss_that_does_not_fall_is_said(typed: InProcess, empty_folder: Path) -> None:
    code, out, err = typed(
        *(*SMALL, "optimizer=sgd", "--from=1e-9", "--to=1e-8", "--steps=20", "--output=here")
    )
    assert code == 1
    assert "suggested" not in out
    assert "the loss did not fall between 1e-09 and 1e-08" in err
    assert (empty_folder / "here" / "lr_find.png").exists()


def test_what_was_found_is_said_where_it_cannot_be_written(
    typed: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cnnexp.runs.files.os.fsync", full)
    code, out, err = typed(*SMALL, "optimizer=sgd", "--steps=40", "--from=1e-3", "--output=here")
    assert code == 1
    assert "suggested" in out
    assert "lr_find.png" not in out
    assert err.endswith(
        "here/lr_find.csv: No space left on device; make room, and give the command again\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimizer.lrr=1"], "did you mean"),
        (["optimizer=addam"], "unknown choice"),
        (["optimizer.lr=1e-3,1e-2"], "optimizer.lr=1e-3,1e-2: a range test is of one training"),
        (["-m", "seed=0,1"], "-m: a range test is of one training; run it for each value"),
        (["run=latest"], "run=latest: a range test begins with new weights"),
        (["sweep=compare_optimizers"], "a range test is of one training"),
        (["hydra.run.dir=x"], "a range test makes no run"),
        (["--from=1", "--to=0.1"], "--from, --to, --steps: from 1 to 0.1: the rates must rise"),
        (["--steps=2"], "steps=2: must be at least 20"),
        (["--config-dir=nowhere"], "--config-dir=nowhere: there is no such folder"),
        (["optimizer.lr=0"], "no learning rate above 0"),
        (["--output=file"], "file is no folder; name another one"),
        (["--output=file/within"], "--output=file/within: "),
        (["output_dir=file"], "output_dir=file/lr_find/"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_misuse_is_one_message_and_leaves_nothing(
    arguments: list[str], said: str, typed: InProcess, empty_folder: Path
) -> None:
    (empty_folder / "file").touch()
    code, out, err = typed(*SMALL, *arguments)
    assert code == 2
    assert out == ""
    (line,) = [each for each in err.splitlines() if not each.startswith("NOTICE")]
    assert line.startswith("cnnexp.lr_find: ")
    assert said.lower() in line.lower()
    assert [each.name for each in empty_folder.iterdir()] == ["file"]
