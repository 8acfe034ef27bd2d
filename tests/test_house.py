"""The house rules that a program can check: layers, sizes, versions in one place, no stray data."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
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


def _lines_of_examples(node: ast.FunctionDef) -> int:
    _, heading, examples = (ast.get_docstring(node) or "").partition("\n\nExamples:\n")
    return len(examples.splitlines()) + 2 if heading else 0


def test_functions_fit_a_screen() -> None:
    lengths = {  # an example in a docstring is no part of the function
        where: node.end_lineno - node.lineno + 1 - _lines_of_examples(node)
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
    listed = [line for extra in ("test", "dev", "docs") for line in extras[extra]]
    for line in [*PROJECT["project"]["dependencies"], *listed]:
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
    from cnnexp.version import __version__

    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert str(citation["date-released"]) in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "file", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda file: file.name
)
def test_what_github_reads_is_whole(file: Path) -> None:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    if file.parent.name == "ISSUE_TEMPLATE" and file.name != "config.yml":
        assert {"name", "description", "body"} <= content.keys()
        for field in content["body"]:
            assert {"type", "id", "attributes"} <= field.keys()
            assert field["attributes"]["label"]


def test_what_ci_calls_is_there() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    run = " ".join(step["run"] for step in steps).replace("${{ matrix.resolved }}", "lowest")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"make ([\w-]+)", run)
    assert {"test-lowest", "coverage"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target
