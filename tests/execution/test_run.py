"""A job is composed once, and its optimiser made twice: to be checked without memory, and to train."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from cnnexp import train
from cnnexp.config import Composer, plain_config
from cnnexp.execution import Job, run_job
from cnnexp.runs import RunFolder
from tests.conftest import Command

SMALL = (
    *("data=digits", "data.train_size=32", "data.val_size=10", "model=lenet5", "backward=direct"),
    *("accelerator=cpu", "trainer.max_epochs=1", "logger=csv", "diagnostics=off", "test=false"),
)
OWN = """
import torch

class Noted(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)
        devices = {p.device.type for group in self.param_groups for p in group["params"]}
        with open("made.txt", "a") as file:
            file.write(f"{' '.join(devices)} {lr}\\n")
"""


@pytest.fixture
def noted(empty_folder: Path) -> tuple[str, ...]:
    """The arguments that train with an optimiser that notes each time it is made."""
    (empty_folder / "mylab.py").write_text(OWN)
    return (
        *SMALL,
        "~optimizer",
        "+optimizer={_target_: mylab.Noted, lr: 0.03}",
        "allow_targets=[mylab.]",
    )


def _made(folder: Path) -> list[str]:
    return sorted((folder / "made.txt").read_text().splitlines())


def test_a_run_makes_its_optimizer_twice(
    noted: tuple[str, ...], command: Command, empty_folder: Path
) -> None:
    done = command("cnnexp.train", *noted)
    assert done.returncode == 0, done.stderr
    assert _made(empty_folder) == ["cpu 0.03", "meta 0.03"]


@pytest.mark.parametrize("launcher", ["local", "basic"])
def test_so_does_each_job_of_a_sweep(
    launcher: str, noted: tuple[str, ...], command: Command, empty_folder: Path
) -> None:
    done = command("cnnexp.train", "-m", *noted, "seed=1,2", f"hydra/launcher={launcher}")
    assert done.returncode == 0, done.stderr
    assert _made(empty_folder) == ["cpu 0.03"] * 2 + ["meta 0.03"] * 2


def test_a_check_makes_it_once(
    noted: tuple[str, ...], command: Command, empty_folder: Path
) -> None:
    done = command("cnnexp.train", *noted, "validate_only=true")
    assert done.returncode == 0, done.stderr
    assert _made(empty_folder) == ["meta 0.03"]


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("more", [(), ("hydra.mode=RUN",), ("hydra.run.dir=here",)])
def test_a_run_is_composed_once(
    more: tuple[str, ...], empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed: list[object] = []
    load = ConfigLoaderImpl.load_configuration

    def counted(self: ConfigLoaderImpl, *arguments: object, **options: object) -> object:
        composed.append(options.get("overrides"))
        return load(self, *arguments, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    monkeypatch.setattr(sys, "argv", ["cnnexp.train", *SMALL, "optimizer.lr=0.03", *more])
    with pytest.raises(SystemExit) as stop:
        train.main()
    assert stop.value.code == 0
    assert len(composed) == 1
    (result,) = empty_folder.rglob("result.json")
    assert ("here" in str(result)) == ("hydra.run.dir=here" in more)


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize(("name", "kept"), [("mine", True), ("digits", False)])
def test_a_job_does_not_overwrite_what_began_on_other_data(
    name: str, kept: bool, empty_folder: Path
) -> None:
    """As on a node that lacks the data; but digits stood in for them."""
    overrides = ["data=synthetic" if each == "data=digits" else each for each in SMALL]
    config = plain_config(Composer("train").compose([*overrides, "data.size=60"]))
    folder = RunFolder(empty_folder / "job")
    folder.path.mkdir()
    folder.write_provenance({"dataset": {"name": name, "checksum": "1234"}})
    folder.write_status("stopped", epoch=3)
    folder.metrics.write_text("of three epochs")
    run_job(Job(config, str(folder), ()))
    status = folder.read_status()
    if kept:
        assert (status["state"], status["epoch"]) == ("failed", 3)
        assert (
            f"{folder}: began on mine with the checksum 1234, but the data found" in status["error"]
        )
        assert folder.metrics.read_text() == "of three epochs"
    else:
        assert status["state"] == "done"
        assert folder.read_provenance()["dataset"]["name"] == "synthetic"
