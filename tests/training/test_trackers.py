"""Runs in Weights & Biases and MLflow, for real and without a network; skipped where a package is missing."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.build import build_job, check_job
from cnnexp.config.resolvers import register_resolvers
from cnnexp.runs import RunFolder, config_hash
from cnnexp.runs.files import write_json
from cnnexp.training import run_training
from cnnexp.training.trackers import TrackedRun, _begun_before

SMALL = (
    *("data=digits", "data.train_size=64", "data.val_size=20", "data.batch_size=16", "model=tiny"),
    *(
        "backward=native",
        "accelerator=cpu",
        "trainer.max_epochs=2",
        "diagnostics=off",
        "name=tried",
    ),
)

THEIR_OWN = pytest.mark.filterwarnings("ignore")  # warnings of the two packages and what they need


@pytest.fixture(autouse=True)
def _home(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_resolvers()
    monkeypatch.setenv("HOME", str(empty_folder))
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        assert isinstance(address, str) or address[0] in ("127.0.0.1", "::1"), address
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


def _run(folder: Path, *overrides: str, resume: bool = False) -> dict[str, Any]:
    job = build_job(plain_config(Composer("train").compose([*SMALL, *overrides])))
    check_job(job)
    folder.mkdir(parents=True, exist_ok=True)
    return run_training(job, RunFolder(folder), resume=resume)


def test_a_single_run_and_a_sweeps_job_have_names(empty_folder: Path) -> None:
    single = TrackedRun(RunFolder(Path("outputs/train/tried/2026-11-28_10-00-00")), "tried")
    assert (single.name, single.group) == ("tried 2026-11-28_10-00-00", "tried")
    job = RunFolder(Path("outputs/sweeps/rates/0123"))
    job.path.mkdir(parents=True)
    write_json(job.job, {"overrides": ["sweep.name=rates", "optimizer.lr=0.1", "logger=mlflow"]})
    swept = TrackedRun(job, "tried")
    assert (swept.name, swept.group) == ("optimizer.lr=0.1", "rates")
    assert len(TrackedRun(job, "tried").files()) == 0


def test_who_looks_on_makes_no_job_another() -> None:
    def hash_of(logger: str) -> str:
        return config_hash(plain_config(Composer("train").compose([*SMALL, f"logger={logger}"])))

    assert hash_of("[tensorboard,mlflow,wandb]") == hash_of("tensorboard")
    assert hash_of("mlflow") == hash_of("none") == hash_of("csv")


@pytest.mark.parametrize(("name", "kind"), [("wandb", "Wandb"), ("mlflow", "MLflow")])
def test_a_missing_package_names_its_extra(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    monkeypatch.delitem(sys.modules, name, raising=False)
    job = build_job(plain_config(Composer("train").compose([*SMALL, f"logger={name}"])))
    with pytest.raises(
        ConfigError, match=rf'logger\.{name}: {kind} needs pip install "cnnexp\[{name}\]"'
    ):
        check_job(job)


def test_wandb_asks_nobody_for_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    online = ("logger=wandb", "logger.wandb.offline=false")
    job = build_job(plain_config(Composer("train").compose([*SMALL, *online])))
    with pytest.raises(ConfigError, match=r"needs a key for the server: run wandb login"):
        check_job(job)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    check_job(job)


def _records(file: Path) -> dict[str, list[Any]]:
    """What an offline run of W&B holds, by kind: its file is a log of LevelDB's format behind 7 bytes."""
    from wandb.proto import wandb_internal_pb2  # pyright: ignore[reportMissingImports]

    content, at, part = file.read_bytes(), 7, b""
    found: dict[str, list[Any]] = {}
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        part += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue]
            record.ParseFromString(part)
            found.setdefault(record.WhichOneof("record_type"), []).append(record)
            part = b""
    return found


@THEIR_OWN
def test_wandb_has_the_run_its_config_figures_and_files(empty_folder: Path) -> None:
    pytest.importorskip("wandb")
    folder = Path("outputs/train/tried/then")
    result = _run(folder, "logger=wandb")
    (place,) = folder.glob("wandb/offline-run-*")
    (file,) = place.glob("*.wandb")
    records = _records(file)
    run = records["run"][0].run
    assert (run.display_name, run.run_group, run.project, run.job_type) == (
        *("tried then", "tried"),
        *("cnnexp", "train"),
    )
    config = {u.key: u.value_json for r in records["config"] for u in r.config.update}
    assert json.loads(config["optimizer"])["lr"] == 0.001
    items = [i for r in records["history"] for i in r.history.item]
    keys = {item.key or ".".join(item.nested_key) for item in items}
    assert {"val/acc", "train/loss", "test/acc", "train/acc"} <= keys
    assert {f.name for f in (place / "files" / "cnnexp").iterdir()} >= {
        "config.yaml",
        "result.json",
    }
    said = json.loads((place / "files" / "cnnexp" / "result.json").read_text())
    assert said["test/acc"] == result["test/acc"]
    assert "exit" in records  # it is over
    begun = TrackedRun(RunFolder(folder), "tried")
    assert begun.resumed
    assert _begun_before(begun) == place.name.rpartition("-")[2]  # which a resumed run continues


@THEIR_OWN
def test_mlflow_has_the_run_its_config_figures_and_files(empty_folder: Path) -> None:
    pytest.importorskip("mlflow")
    folder = Path("outputs/train/tried/then")
    result = _run(folder, "logger=[tensorboard,mlflow]", "output_dir=outputs")
    assert any(folder.glob("tensorboard/events*"))
    (run,) = _runs("tried")
    assert (run.info.run_name, run.info.status) == ("tried then", "FINISHED")
    assert run.data.params["optimizer.lr"] == "0.001"
    assert run.data.metrics["test/acc"] == pytest.approx(result["test/acc"], abs=1e-6)
    assert run.data.metrics["result/val/acc"] == result["val/acc"]
    kept = {file.name for file in Path("outputs/mlartifacts").glob("*/artifacts/*")}
    assert kept >= {"config.yaml", "provenance.json", "result.json"}
    assert not Path("mlruns").exists()


def _runs(experiment: str) -> list[Any]:
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    client = MlflowClient(f"sqlite:///{Path('outputs/mlflow.db').resolve()}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


class Stops(torch.optim.SGD):
    """An optimiser that fails in its 7th step, as long as it is to."""

    fails, steps = True, 0

    def step(self, closure: Any = None) -> Any:
        Stops.steps += 1
        if Stops.fails and Stops.steps == 7:
            raise RuntimeError("it stops here")
        return super().step(closure)


@THEIR_OWN
def test_mlflow_continues_the_entry_of_a_run_that_is_resumed(empty_folder: Path) -> None:
    pytest.importorskip("mlflow")
    folder, extra = Path("outputs/train/tried/then"), ("tests.training.test_trackers.",)
    own = [
        "logger=mlflow",
        "optimizer=sgd",
        "optimizer._target_=tests.training.test_trackers.Stops",
    ]
    folder.mkdir(parents=True)
    job = build_job(plain_config(Composer("train").compose([*SMALL, *own])), extra)
    Stops.fails, Stops.steps = True, 0
    with pytest.raises(RuntimeError, match="it stops here"):
        run_training(job, RunFolder(folder))
    (failed,) = _runs("tried")
    assert failed.info.status == "FAILED"
    Stops.fails = False
    run_training(job, RunFolder(folder), resume=True)
    (run,) = _runs("tried")
    assert (run.info.run_id, run.info.status) == (failed.info.run_id, "FINISHED")
    assert "test/acc" in run.data.metrics
