"""Names that other libraries keep to themselves are used in the adapters alone, and these are in order."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

SRC = ROOT / "src"
ADAPTERS = {
    "cnnexp/config/hydra_internals.py": ("hydra-core",),
    "cnnexp/postponed.py": ("torch", "torchmetrics", "lightning"),
    "cnnexp/kernels/cpu/numba_internals.py": ("numba", "llvmlite"),
    "cnnexp/ops/torch_internals.py": ("torch",),
    "cnnexp/optim/torch_internals.py": ("torch",),
    "cnnexp/training/lightning_internals.py": ("lightning",),
    "cnnexp/training/lightning_loop.py": ("lightning",),
    "cnnexp/training/lightning_turn.py": ("lightning",),
}
# documented by the libraries that have them: Python's named tuples and os, Hydra's configs
PUBLIC = {"_asdict", "_exit", "_fields", "_make", "_replace", "_target_"}
INTERNAL_PACKAGES = ("numba.core",)
LOOKS_BY_NAME = ("delattr", "getattr", "hasattr", "setattr")


def _private(name: str) -> bool:
    magic = name.startswith("__") and name.endswith("__")
    return name.startswith("_") and not magic and name.strip("_") != "" and name not in PUBLIC


def _own_names(tree: ast.AST) -> set[str]:
    """The names that ``tree`` gives to functions, classes, variables and attributes."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module or ''}.{alias.name}" for alias in node.names if node.level == 0]


def _foreign_private_names(tree: ast.AST, inherited: set[str]) -> Iterator[tuple[int, str]]:
    """Each use in ``tree``, as (line, name).

    Args:
        tree: Of a module.
        inherited: What a class of it may have from another module of cnnexp.
    """
    own = _own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for name in _imported(node):
                private = any(map(_private, name.split("."))) or name.startswith(INTERNAL_PACKAGES)
                if private and not name.startswith("cnnexp."):
                    yield node.lineno, name
        elif isinstance(node, ast.Attribute) and _private(node.attr):
            of_itself = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if node.attr not in own and not (of_itself and node.attr in inherited):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            name = node.args[1]
            text = name.value if isinstance(name, ast.Constant) else None
            if node.func.id in LOOKS_BY_NAME and isinstance(text, str) and _private(text):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            text, holder = node.slice.value, ast.unparse(node.value)
            within = holder.startswith("vars(") or holder.endswith(".__dict__")
            if within and isinstance(text, str) and _private(text) and text not in own:
                yield node.lineno, ast.unparse(node)


def test_other_libraries_private_names_are_used_in_the_adapters_alone() -> None:
    trees = {
        str(file.relative_to(SRC)): ast.parse(file.read_text(encoding="utf-8"))
        for file in sorted(SRC.rglob("*.py"))
    }
    inherited = set().union(*map(_own_names, trees.values()))
    found = [
        f"{file}:{line}: {name}"
        for file, tree in trees.items()
        if file not in ADAPTERS
        for line, name in _foreign_private_names(tree, inherited)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import torch._functorch.config as c", "torch._functorch.config"),
        ("from hydra._internal import utils", "hydra._internal.utils"),
        ("from torch.nn.modules.utils import _pair", "torch.nn.modules.utils._pair"),
        ("from numba.core import event", "numba.core.event"),
        ("torch._C.some()", "torch._C"),
        ("self._trainer", "self._trainer"),
        ("loop._restarting = False", "loop._restarting"),
        ("getattr(callback, '_cpu_stats')", "getattr(callback, '_cpu_stats')"),
        ("setattr(callback, '_cpu_stats', 1)", "setattr(callback, '_cpu_stats', 1)"),
        ("vars(module)['_modules']", "vars(module)['_modules']"),
        ("module.__dict__['_modules']", "module.__dict__['_modules']"),
    ],
)
def test_every_kind_of_use_is_found(code: str, name: str) -> None:
    assert [found for _, found in _foreign_private_names(ast.parse(code), set())] == [name]


@pytest.mark.parametrize(
    "code",
    [
        "from cnnexp.ops import _x",
        "self._x = 1; other._x",
        "self._inherited",
        "value.__class__; getattr(value, '__module__')",
        "node._target_; row._asdict(); _ = 1",
    ],
)
def test_what_is_ones_own_or_documented_is_left_alone(code: str) -> None:
    assert list(_foreign_private_names(ast.parse(code), {"_inherited"})) == []


@pytest.mark.parametrize("file", ADAPTERS)
def test_each_function_of_an_adapter_says_what_was_looked_for_and_has_a_test(file: str) -> None:
    package = Path(file).parts[1:-1][:1]
    tests = ROOT.joinpath("tests", *package, f"test_{Path(file).name}").read_text(encoding="utf-8")
    tree = ast.parse((SRC / file).read_text(encoding="utf-8"))
    public = import_module(".".join(Path(file).with_suffix("").parts)).__all__
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert {node.name for node in functions if not _private(node.name)} <= set(public)
    for node in functions:
        if node.name in public:
            assert ast.get_docstring(node), node.name
            assert re.search(rf"\b{node.name}\(", tests), f"{node.name} has no test"


@pytest.mark.parametrize("file", ADAPTERS)
def test_an_adapter_names_the_versions_that_the_tests_run_with(file: str) -> None:
    said = " ".join((ast.get_docstring(ast.parse((SRC / file).read_text("utf-8"))) or "").split())
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {each.name: str(each.specifier).removeprefix("==") for each in pinned}
    for library in ADAPTERS[file]:
        assert f"{library} {versions[library]}" in said
