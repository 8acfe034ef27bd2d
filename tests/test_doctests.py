"""The examples in public docstrings run and give what they say; what is public and short has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

from cnnexp import nn, ops, optim, proofs, regularization, tuning
from cnnexp.optim import schedules
from tests.conftest import ROOT

SOURCES = ROOT / "src"
WITH_EXAMPLES = sorted(
    file for file in SOURCES.rglob("*.py") if ">>> " in file.read_text(encoding="utf-8")
)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _module(file: Path) -> str:
    parts = file.relative_to(SOURCES).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("file", WITH_EXAMPLES, ids=_module)
def test_examples_give_what_they_say(file: Path) -> None:
    module = importlib.import_module(_module(file))
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
    found = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert found
    for test in found:
        runner.run(test, out=said.append)
    assert not runner.summarize(verbose=False).failed, "".join(said)


def _is_own(each: object) -> bool:
    return inspect.isfunction(each) and each.__module__ == schedules.__name__


# Of the op, the layers and the proofs what a newcomer begins with; of what is small, all.
WANTED = [
    *(getattr(ops, name) for name in ops.op_names()),
    *(ops.Pool, ops.algorithm_names, ops.get_algorithm, ops.resolve_algorithm),
    *(nn.replace_layers, nn.conversion, nn.layer_algorithms, proofs.check),
    *(tuning.choose_algorithms, tuning.pin_algorithms, optim.param_groups, optim.freeze),
    *(each for name, each in inspect.getmembers(schedules, _is_own) if not name.startswith("_")),
    *(regularization.L1, regularization.L2, regularization.ElasticNet, regularization.MaxNorm),
    *(regularization.MixUp, regularization.CutMix, regularization.LabelSmoothing),
    *(regularization.Clip, regularization.clip_units),
]


@pytest.mark.parametrize("public", WANTED, ids=lambda each: each.__name__)
def test_what_is_public_has_an_example(public: object) -> None:
    assert ">>> " in (public.__doc__ or "")
