"""The changes that mutation testing makes, and that it notices what tests notice."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.mutation.mutants import Mutant, mutants_of, mutated
from tests.mutation.running import ordered

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


JUDGED = """
import json, sys
from pathlib import Path
import pytest
from tests.mutation.mutants import mutants_of
from tests.mutation.running import Judge

root, found = Path.cwd(), {}
sys.path.insert(0, str(root / "src"))
judge = Judge(
    mutants_of(root / "src/page.py", root),
    lambda mutant, outcome: found.update({mutant.after: [outcome.state, outcome.by]}),
    root=root,
)
pytest.main(["-q", "-s", "-p", "no:cacheprovider", "test_page.py"], plugins=[judge])
print(json.dumps([judge.trouble, found]))
"""


def _judged(folder: Path, test: str) -> tuple[str, dict[str, list[str]]]:
    (folder / "src").mkdir()
    (folder / "src/page.py").write_text(
        "def grown(x):\n    return x * 3\n\n\ndef never(x):\n    return x + 7\n", encoding="utf-8"
    )
    (folder / "test_page.py").write_text(
        f"from page import grown\n\ndef test_it_grows():\n    assert grown(2) {test}\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-c", JUDGED],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    trouble, found = json.loads(done.stdout.splitlines()[-1])
    return trouble, found


def test_a_mutant_is_killed_by_the_test_that_notices_it(tmp_path: Path) -> None:
    trouble, found = _judged(tmp_path, "> 4")
    assert trouble == ""
    test = "test_page.py::test_it_grows"
    assert found == {
        "(x / 3)": ["killed", test],
        "(2)": ["killed", test],  # 2 · 2
        "(4)": ["survived", ""],
        "(x - 7)": ["survived", ""],
        "(8)": ["survived", ""],
        "(6)": ["survived", ""],
    }


def test_tests_that_fail_without_any_change_judge_nothing(tmp_path: Path) -> None:
    trouble, found = _judged(tmp_path, "> 6")
    assert trouble.startswith("test_page.py::test_it_grows: ")
    assert found == {}
