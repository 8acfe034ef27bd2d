"""The names of ``cnnexp`` itself: few, typed, and imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cnnexp
from cnnexp import inference, nn, notebook, proofs, version


def test_the_names_are_those_of_their_packages() -> None:
    assert cnnexp.replace_layers is nn.replace_layers
    assert cnnexp.check is proofs.check
    assert cnnexp.fit is notebook.fit
    assert cnnexp.load_run is inference.load_run
    assert cnnexp.__version__ == version.__version__


def test_all_names_are_listed() -> None:
    assert {*cnnexp.__all__, "__doc__"} <= set(dir(cnnexp))
    for name in cnnexp.__all__:
        assert getattr(cnnexp, name) is not None


def test_an_unknown_name_is_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match=r"^module 'cnnexp' has no attribute 'replace_layer'$"):
        _ = cnnexp.replace_layer  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_cnnexp_imports_nothing_heavy() -> None:
    program = (
        "import sys, cnnexp; assert 'replace_layers' in dir(cnnexp); cnnexp.__version__;"
        "print(*{'torch', 'lightning', 'numpy', 'hydra', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_a_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from cnnexp import *", names)
    assert set(cnnexp.__all__) <= set(names)
