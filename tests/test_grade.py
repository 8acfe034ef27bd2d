"""``python -m cnnexp.grade`` as its users type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cnnexp.grading.contract import CONTRACTS
from cnnexp.grading.template import template
from tests.conftest import ROOT, Command

STUDENTS = ROOT / "tests" / "grading" / "students"


def test_a_wrong_file_exits_with_1_and_writes_what_was_asked_for(
    command: Command, empty_folder: Path
) -> None:
    file = STUDENTS / "wrong" / "max_pool2d__equality_mask.py"
    done = command(
        "cnnexp.grade", "max_pool2d", str(file), "--json", "grade.json", "--html", "grade.html"
    )
    assert done.returncode == 1, done.stderr
    assert "WRONG" in done.stdout
    assert "ties given to all" in done.stdout
    assert "The smallest call that shows it: x 1×1×2×2" in done.stdout
    content = json.loads((empty_folder / "grade.json").read_text(encoding="utf-8"))
    assert content["verdict"] == "wrong"
    assert content["findings"][0]["name"] == "ties given to all"
    assert content["example"]["right"] != content["example"]["found"]
    page = (empty_folder / "grade.html").read_text(encoding="utf-8")
    assert "ties given to all" in page
    assert "BODY" not in page


def test_a_right_file_exits_with_0(command: Command) -> None:
    done = command("cnnexp.grade", "relu", str(STUDENTS / "right" / "relu__mask.py"))
    assert done.returncode == 0, done.stderr
    assert "relu" in done.stdout
    assert "RIGHT" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["conv2", "x.py"], "Did you mean 'conv2d'?"),
        (["conv2d", "nowhere.py"], "nowhere.py: there is no such file"),
        (["conv2d"], "which op and which file?"),
        (["relu", "x.py", "--seconds=0"], "--seconds=0: must be above 0"),
        (["relu", "x.py", "--memory=1"], "--memory=1: must be 16 to"),
        (["relu", "x.py", "--json", "no/where.json"], "there is no folder"),
        (["--template", "conv3d"], "conv3d: no op that can be graded"),
    ],
)
def test_misuse_exits_with_2(
    command: Command, empty_folder: Path, arguments: list[str], said: str
) -> None:
    done = command("cnnexp.grade", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert list(empty_folder.iterdir()) == []


def test_a_template_is_written_once_and_fails_until_it_is_filled_in(
    command: Command, empty_folder: Path
) -> None:
    assert command("cnnexp.grade", "--template", "linear").returncode == 0
    again = command("cnnexp.grade", "--template", "linear")
    assert again.returncode == 2
    assert "is there already" in again.stderr
    done = command("cnnexp.grade", "linear", "linear.py")
    assert done.returncode == 1
    assert "NotImplementedError in line" in done.stdout


@pytest.mark.parametrize("op", CONTRACTS)
def test_a_template_has_the_arguments_of_the_contract(op: str) -> None:
    text = template(op)
    compile(text, "template.py", "exec")
    for name in CONTRACTS[op].tensors:
        assert name in text.partition("def forward(")[2].partition(")")[0]
