"""A variable that is set to nothing counts as unset, whichever of cnnexp's it is, and whoever reads it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from cnnexp.config import Composer, conf_dir
from cnnexp.config.targets import allowed_prefixes
from cnnexp.environment import variable
from cnnexp.tuning.choices import cache_dir
from tests.conftest import ROOT

BLANK = ("", " ", "\t")
WITH_ROOT = sorted(
    f.stem for f in (ROOT / "conf" / "data").glob("*.yaml") if "\nroot:" in f.read_text()
)


@pytest.mark.parametrize("value", BLANK)
def test_blank_is_unset(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNEXP_X", value)
    assert variable("CNNEXP_X") is None
    assert variable("CNNEXP_X", "y") == "y"
    monkeypatch.setenv("CNNEXP_X", "x")
    assert variable("CNNEXP_X", "y") == "x"
    monkeypatch.delenv("CNNEXP_X")
    assert variable("CNNEXP_X", "y") == "y"


@pytest.mark.parametrize("data", WITH_ROOT)
def test_where_every_data_set_is_looked_for(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNEXP_DATA", "")
    assert Composer("train").compose([f"data={data}"]).data.root == "data"


def test_where_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNEXP_DATA", "/sets")
    assert Composer("train").compose([]).data.root == "/sets"


def test_whoever_composes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNEXP_DATA", "")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert compose("train").data.root == "data"


@pytest.mark.parametrize("value", BLANK)
def test_every_other_variable(value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CNNEXP_ALLOW_TARGETS", value)
    assert allowed_prefixes() == ()
    monkeypatch.setenv("CNNEXP_CACHE", value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "cnnexp"
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_dir() == Path.home() / ".cache" / "cnnexp"


def test_variables_are_read_in_one_place() -> None:
    reads = re.compile(r"os\.getenv|environ\.get\(|in os\.environ|environ\[[^]]+\](?! = )")
    found = {
        f"{file.relative_to(ROOT / 'src' / 'cnnexp')}: {line.strip()}"
        for file in (ROOT / "src").rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if reads.search(line)
    }
    assert found == {
        'environment.py: value = os.environ.get(name, "")',
        # to CUDA an empty one means no GPU
        'execution/slots.py: named = os.environ.get("CUDA_VISIBLE_DEVICES")',
        # set by what starts the ranks, or a few lines above
        'training/ranks.py: store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))',
        'sweeps/slurm.py: number = os.environ["SLURM_JOB_ID"]',
    }
