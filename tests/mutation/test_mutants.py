"""The changes that mutation testing makes, and that it notices what tests notice."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.mutation.mutants import Mutant, mutants_of, mutated
from tests.mutation.running import judge, ordered

PROGRAM = '''"""A page of x + 1."""

from typing import Any

__all__ = ["shift"]


def shift(x: int | Any, by: float = 0.5, *, up: bool = True) -> int | Any:
    """x + 1."""
    if x is None or x < 0:
        raise ValueError(f"{x + 1} is below 0")
    for c in "Σ":
        x -= len(c)
    x.add_(by)
    return where(up, x.sum(), -x * 2) if up else x // 3
'''


def _changes(tmp_path: Path) -> list[tuple[str, str]]:
    (tmp_path / "page.py").write_text(PROGRAM, encoding="utf-8")
    return [(m.before, m.after) for m in mutants_of(tmp_path / "page.py", tmp_path)]


def test_what_computes_is_changed_and_what_describes_is_not(tmp_path: Path) -> None:
    assert sorted(_changes(tmp_path)) == sorted(
        [
            ("0.5", "(1.5)"),
            ("True", "(False)"),
            ("x is None or x < 0", "(not (x is None or x < 0))"),
            ("x is None or x < 0", "(x is None and x < 0)"),
            ("x is None", "(x is not None)"),
            ("x < 0", "(x <= 0)"),
            ("x < 0", "(x >= 0)"),
            ("0", "(1)"),
            ("0", "(-1)"),
            ("x -= len(c)", "x += len(c)"),
            ("x.add_(by)", "pass"),
            ("x.add_(by)", "(x.sub_(by))"),
            ("up", "(not up)"),
            ("where(up, x.sum(), -x * 2)", "(where(up, -x * 2, x.sum()))"),
            ("x.sum()", "(x.mean())"),
            ("-x * 2", "(-x / 2)"),
            ("-x", "(x)"),
            ("2", "(3)"),
            ("2", "(1)"),
            ("x // 3", "(x * 3)"),
            ("3", "(4)"),
            ("3", "(2)"),
        ]
    )


def test_each_mutant_is_a_program_that_differs_in_one_place(tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text(PROGRAM, encoding="utf-8")
    original = PROGRAM.splitlines()
    for mutant in mutants_of(tmp_path / "page.py", tmp_path):
        made = mutated(mutant, tmp_path)
        assert ast.dump(ast.parse(made)) != ast.dump(ast.parse(PROGRAM)), mutant
        differing = [n for n, line in enumerate(made.splitlines()) if line != original[n]]
        assert differing == [mutant.line - 1], mutant


def test_all_files_of_the_ops_can_be_changed() -> None:
    found = [m for f in (ROOT / "src/cnnexp/ops").rglob("*.py") for m in mutants_of(f, ROOT)]
    assert len(found) > 1000
    for mutant in found[::20]:
        mutated(mutant, ROOT)


def _of(before: str, after: str) -> Mutant:
    file = ROOT / "src/cnnexp/ops/relu.py"
    return next(m for m in mutants_of(file, ROOT) if (m.before, m.after) == (before, after))


def test_tests_that_name_the_op_come_first() -> None:
    tests = {"tests/a.py::test[conv2d]": 0.1, "tests/a.py::test[relu]": 0.5, "tests/b.py::x": 0.2}
    mutant = _of("output <= 0", "(output < 0)")
    assert ordered(tests, mutant) == [
        "tests/a.py::test[relu]",
        "tests/a.py::test[conv2d]",
        "tests/b.py::x",
    ]


@pytest.mark.parametrize(("after", "state"), [("(x // 3)", "killed"), ("(x * 4)", "survived")])
def test_a_mutant_is_killed_by_the_test_that_notices_it(
    after: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "src" / "page_of_a_mutant.py"
    file.parent.mkdir()
    file.write_text("def grown(x):\n    return x * 3\n", encoding="utf-8")
    (tmp_path / "test_page.py").write_text(
        "from page_of_a_mutant import grown\n\ndef test_it_grows():\n    assert grown(2) > 3\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(file.parent)
    before = "x * 3"
    start = file.read_text(encoding="utf-8").index(before)
    mutant = Mutant(
        "src/page_of_a_mutant.py", 2, "return x * 3", before, after, start, start + len(before)
    )
    outcome = judge(mutant, {"test_page.py::test_it_grows": 0.1}, 60, tmp_path)
    assert outcome.state == state
    assert outcome.by == ("test_page.py::test_it_grows" if state == "killed" else "")
    assert "page_of_a_mutant" not in sys.modules  # it lived in another process
