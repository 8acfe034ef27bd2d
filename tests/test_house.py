"""The house rules that a program can check: layers, sizes, versions in one place, no stray data."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import grimp
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

SRC = ROOT / "src"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_imports_point_down() -> None:
    program = (
        "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: 4 kept, 0 broken", done.stdout)


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("cnnexp", cache_dir=None)
    left = {m: graph.find_modules_directly_imported_by(m) - {m} for m in graph.modules}
    while free := {module for module, others in left.items() if not others & left.keys()}:
        left = {module: others for module, others in left.items() if module not in free}
    # what is left imports, directly or not, a circle; those that nobody there imports are no part of it
    while top := {module for module in left if not any(module in o for o in left.values())}:
        left = {module: others for module, others in left.items() if module not in top}
    assert sorted(left) == []


def test_a_single_run_touches_no_sweep() -> None:
    program = (
        "import sys, cnnexp.train, cnnexp.execution.checking, cnnexp.execution.run, cnnexp.execution.ranks;"
        "print(*[name for name in sys.modules if name.startswith('cnnexp.sweeps')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def _sources() -> list[Path]:
    return [file for part in ("src", "tests", "benchmarks") for file in (ROOT / part).rglob("*.py")]


@pytest.mark.parametrize("file", _sources(), ids=lambda f: str(f.relative_to(ROOT)))
def test_files_are_small(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400


def _classes_and_functions() -> list[tuple[str, ast.AST]]:
    """Each class and function of src, nested ones as well, with the place where it stands."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        (f"{file.relative_to(SRC)}:{node.lineno} {node.name}", node)
        for file in sorted(SRC.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, kinds)
    ]


def test_functions_fit_a_screen() -> None:
    lengths = {
        where: node.end_lineno - node.lineno + 1
        for where, node in _classes_and_functions()
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None
    }
    assert {where: n for where, n in lengths.items() if n > 60} == {}


def test_classes_have_few_methods() -> None:
    methods = {
        where: sum(isinstance(part, ast.FunctionDef) for part in node.body)
        for where, node in _classes_and_functions()
        if isinstance(node, ast.ClassDef)
    }
    assert {where: n for where, n in methods.items() if n > 15} == {}


def test_no_two_modules_of_a_layer_have_one_name() -> None:
    (layers,) = (
        each["layers"] for each in PROJECT["tool"]["importlinter"]["contracts"] if "layers" in each
    )
    twice = []
    for layer in layers:
        files: dict[str, list[str]] = {}
        for package in layer.split(" | "):
            folder = SRC / "cnnexp" / package
            for file in sorted([*folder.rglob("*.py"), folder.with_suffix(".py")]):
                if file.exists() and file.stem != "__init__":
                    files.setdefault(file.stem, []).append(str(file.relative_to(SRC / "cnnexp")))
        twice += [same for same in files.values() if len(same) > 1 and not _parallel(same)]
    assert twice == []


def _parallel(files: Sequence[str]) -> bool:
    """Whether the folders of ``files`` are made to have the same: the ways of ops, the devices of kernels."""
    parts = [Path(file).parts for file in files]
    return all(len(p) == 3 and p[0] in ("ops", "kernels") for p in parts)


def test_the_tools_have_the_same_versions_everywhere() -> None:
    pinned = {}
    for line in PROJECT["project"]["optional-dependencies"]["dev"]:
        requirement = Requirement(line)
        if str(requirement.specifier).startswith("=="):
            pinned[requirement.name] = str(requirement.specifier)[2:]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    used = {repo["hooks"][0]["id"].partition("-")[0]: repo["rev"][1:] for repo in hooks["repos"]}
    assert pinned == used
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for name, version in pinned.items():
        assert f"\n{name}=={version}\n" in constraints


def test_the_constraints_are_within_the_ranges_of_the_project() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text  # versions only, no addresses
    exact = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            exact[requirement.name] = Version(str(requirement.specifier)[2:])
    extras = PROJECT["project"]["optional-dependencies"]
    for line in [*PROJECT["project"]["dependencies"], *extras["test"], *extras["dev"]]:
        requirement = Requirement(line)
        if requirement.name != "cnnexp":
            assert exact[requirement.name] in requirement.specifier, line


def test_versions_with_known_holes_are_kept_out() -> None:
    ranges = {
        Requirement(line).name: Requirement(line) for line in PROJECT["project"]["dependencies"]
    }
    for bad in ("2.6.2", "2.6.3", "2.6.5"):
        assert bad not in ranges["lightning"].specifier
    assert "1.3.7" not in ranges["hydra-core"].specifier
    assert "1.3.8" in ranges["hydra-core"].specifier


def test_outputs_stands_in_the_tree_and_its_contents_are_ignored() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )

    assert git("ls-files", "outputs").stdout.split() == ["outputs/.gitignore"]
    assert git("check-ignore", "outputs/train/x/result.json").returncode == 0


def test_the_changelog_names_the_version() -> None:
    from cnnexp import __version__

    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
