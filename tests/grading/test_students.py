"""Files as students write them: right ones pass, wrong ones are called by the name in their first line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cnnexp.grading import grade_file
from cnnexp.grading.contract import CONTRACTS
from tests.test_results import GRADING

STUDENTS = Path(__file__).parent / "students"
RIGHT = sorted((STUDENTS / "right").glob("*.py"))
# one of each op, and conventions that need to be understood; the benchmark grades all of them
CONVENTIONS = (
    *(
        "max_pool2d__ties_shared",
        "relu__half",
        "linear__in_out",
        "batch_norm__graph",
        "conv2d__class",
    ),
    *("cross_entropy__cached_probabilities", "conv2d__param_dict", "max_pool2d__last_winner"),
    *("relu__torch_function", "conv2d__torch_module", "conv2d__torch_dilated_groups"),
)
FIRST = [next(f for f in RIGHT if f.stem.startswith(f"{op}__")) for op in CONTRACTS]
TRIED = sorted({*FIRST, *(STUDENTS / "right" / f"{name}.py" for name in CONVENTIONS)})


def _op(file: Path) -> str:
    return file.stem.partition("__")[0]


@pytest.mark.parametrize("file", TRIED, ids=lambda f: f.stem)
def test_right_work_passes(file: Path) -> None:
    grade = grade_file(_op(file), file)
    assert grade, grade
    assert grade.findings == []
    assert all(grade.parts.values())
    assert grade.cost["ms"] > 0 < grade.cost["our_ms"]


@pytest.mark.parametrize("file", sorted((STUDENTS / "wrong").glob("*.py")), ids=lambda f: f.stem)
def test_wrong_work_is_called_by_its_name(file: Path) -> None:
    expected = file.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    grade = grade_file(_op(file), file)
    assert grade.verdict == "wrong"
    assert any(expected in f.title for f in grade.findings if f.named), grade
    assert grade.example is not None
    wrong = {part for part, right in grade.parts.items() if not right}
    assert wrong == {part for finding in grade.findings for part in finding.parts}


@pytest.mark.parametrize("mutant", GRADING.MUTANTS[3::9], ids=lambda m: f"{m.file}-{m.name}")
def test_edits_of_right_work_are_called_by_their_names(mutant: Any, tmp_path: Path) -> None:
    file = tmp_path / f"{mutant.file}.py"
    file.write_text(GRADING.mutated(mutant), encoding="utf-8")
    grade = grade_file(mutant.op, file)
    assert grade.verdict == "wrong"
    assert any(mutant.name in finding.title for finding in grade.findings if finding.named), grade


def test_a_forward_and_its_backward_that_flip_alike_are_one_finding() -> None:
    grade = grade_file("conv2d", STUDENTS / "wrong" / "conv2d__true_convolution.py")
    (finding,) = grade.findings
    assert finding.parts == ("y", "∂L/∂x", "∂L/∂w")
    assert len(finding.formulas) == 3


def test_conventions_that_are_not_the_documented_ones_are_said() -> None:
    grade = grade_file("linear", STUDENTS / "right" / "linear__in_out.py")
    assert grade.notes == ["its w is (C_in, C_out)"]
    grade = grade_file("max_pool2d", STUDENTS / "right" / "max_pool2d__indices.py")
    assert grade.notes == ["not tried, since forward takes none: padding"]
