"""Work that misbehaves: it loops, ends, prints, raises, keeps state, draws, changes what it is given."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cnnexp.commandline import Misuse
from cnnexp.grading import Grade, Limits, grade_file
from cnnexp.kept_memory import VARIABLES

RELU = """
import numpy as np
def forward(x):
    return np.maximum(x, 0)
def backward(grad_output, x):
"""


def _graded(
    folder: Path, body: str, op: str = "relu", head: str = RELU, limits: Limits | None = None
) -> Grade:
    file = folder / "work.py"
    file.write_text(head + textwrap.indent(textwrap.dedent(body), "    "), encoding="utf-8")
    return grade_file(op, file, limits=limits)


def test_an_endless_loop_is_stopped_and_its_line_shown(tmp_path: Path) -> None:
    grade = _graded(tmp_path, "while True:\n    pass", limits=Limits(seconds=1.0))
    assert grade.verdict == "failed"
    assert grade.findings[0].name == "endless loop, or too slow"
    assert "after 1 seconds" in grade.findings[0].meaning
    assert "line 6" in grade.findings[0].meaning or "line 7" in grade.findings[0].meaning
    assert set(grade.parts.values()) == {None}


def test_a_process_of_its_own_stops_an_endless_loop_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnexp.grading.process.can_fork", lambda: False)
    grade = _graded(tmp_path, "while True: pass", limits=Limits(seconds=1.0))
    assert grade.findings[0].name == "endless loop, or too slow"
    assert _graded(tmp_path, "print('noise' * 99)\nreturn grad_output * (x > 0)")


def test_memory_that_a_command_keeps_is_not_kept_by_a_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would count against the limit."""
    monkeypatch.setattr("cnnexp.grading.process.can_fork", lambda: False)
    monkeypatch.setenv(VARIABLES[0], str(1 << 30))
    grade = _graded(tmp_path, f"import os\nraise ValueError(os.environ.get({VARIABLES[0]!r}))")
    assert "ValueError: None" in grade.findings[0].meaning


@pytest.mark.parametrize(
    ("body", "name", "said"),
    [
        ("import sys\nsys.exit(0)", "ends the program", "SystemExit: 0 in line 7 in backward"),
        ("import os\nos._exit(3)", "stops with an error", "ended by itself with code 3"),
        ("return grad_output * y", "stops with an error", "NameError: name 'y' is not defined"),
        ("return np.zeros(10**12)", "too much memory", "line 6 in backward: return np.zeros"),
        ("raise ValueError('oh')", "stops with an error", "ValueError: oh in line 6 in backward"),
        ("return input()", "stops with an error", "EOFError"),
    ],
)
def test_what_never_gives_an_answer_fails_with_its_own_line(
    tmp_path: Path, body: str, name: str, said: str
) -> None:
    grade = _graded(tmp_path, body)
    assert grade.verdict == "failed"
    assert grade.findings[0].name == name
    assert said in grade.findings[0].meaning
    assert "cnnexp" not in grade.findings[0].meaning


def test_a_syntax_error_shows_its_line(tmp_path: Path) -> None:
    grade = _graded(tmp_path, "return (grad_output")
    assert grade.verdict == "failed"
    assert "SyntaxError" in grade.findings[0].meaning
    assert "line 6" in grade.findings[0].meaning


def test_stopping_in_some_calls_is_told_apart(tmp_path: Path) -> None:
    body = "assert x.ndim == 2\nreturn grad_output * (x > 0)"
    (finding,) = _graded(tmp_path, body).findings
    assert finding.name == "stops with an error"
    assert "AssertionError in line 6 in backward: assert x.ndim == 2" in finding.meaning
    assert "in 2 of" in finding.meaning


@pytest.mark.parametrize(
    ("head", "body", "name"),
    [
        (RELU, "x[x > 1] = 1\nreturn grad_output * (x > 0)", "changes its inputs in place"),
        (RELU, "return grad_output * (x > 0) + np.random.rand() / 9", "depends on chance"),
        ("total = [0]" + RELU, "total[0] += 1\nreturn grad_output * (x > 0) * total[0]", "state"),
    ],
)
def test_habits_are_named(tmp_path: Path, head: str, body: str, name: str) -> None:
    grade = _graded(tmp_path, body, head=head)
    assert not grade
    assert any(name in finding.name for finding in grade.findings), grade


def test_writing_into_grad_output_is_noted_but_not_wrong(tmp_path: Path) -> None:
    grade = _graded(tmp_path, "grad_output[x <= 0] = 0\nreturn grad_output")
    assert grade
    assert "grad_output in place" in grade.notes[0]


@pytest.mark.parametrize(
    ("body", "name", "said"),
    [
        ("return None", "missing", "returns nothing"),
        ("return grad_output[..., :1] * 1.0", "wrong shape", "It has the shape"),
        ("return grad_output / 0", "not finite", "NaN or infinite"),
        ("return 0.3 * grad_output * (x > 0)", "constant factor", "0.3 times"),
        ("return grad_output * (x > 0) * (1 + (x.ndim > 2))", "factor", "by 1 to 2"),
    ],
)
def test_what_is_no_known_mistake_is_described(
    tmp_path: Path, body: str, name: str, said: str
) -> None:
    finding = _graded(tmp_path, body).findings[0]
    if name != "factor":
        assert finding.name == name
        assert said in finding.meaning
    assert not finding.named


def test_gradients_in_another_order_are_recognised(tmp_path: Path) -> None:
    head = "def forward(x, w, b):\n    return x @ w.T + b\ndef backward(g, x, w, b):\n"
    grade = _graded(tmp_path, "return g.T @ x, g @ w, g.sum(0)", "linear", head)
    said = " ".join(finding.meaning for finding in grade.findings)
    assert "It is ∂L/∂w: backward has to return ∂L/∂x, ∂L/∂w, ∂L/∂b in this order" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def forwrd(x): return x\ndef backwrd(g): return g", "Did you mean"),
        ("x = 1", "no function and no class"),
        ("def forward(x): return x", "there is no backward"),
    ],
)
def test_nothing_to_grade_is_a_misuse(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "work.py"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(Misuse, match=said):
        grade_file("relu", file)


def test_helpers_beside_the_file_are_imported(tmp_path: Path) -> None:
    (tmp_path / "mask_of.py").write_text("def mask(x):\n    return x > 0\n", encoding="utf-8")
    text = "from mask_of import mask\ndef forward(x): return x * mask(x)\n"
    (tmp_path / "work.py").write_text(
        f"{text}def backward(g, x): return g * mask(x)\n", encoding="utf-8"
    )
    program = (
        "from cnnexp.grading import grade_file; import sys\n"
        "sys.exit(not grade_file('relu', 'work.py'))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
