"""Damaged run folders, and a stranger's: a clear error or a safe fallback each, and nothing is run."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import pickle
import re
import shutil
import signal
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from cnnexp import evaluate, export, predict, train
from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.runs import RunFolder
from cnnexp.training import (
    TrainingStopped,
    read_checkpoint,
    run_training,
    write_checkpoint,
)

SMALL = (
    *("data=digits", "model=lenet5", "trainer.max_epochs=3", "scheduler=onecycle"),
    *("accelerator=cpu", "backward=native"),
)


class _Stop(Callback):
    """A signal in the third epoch: there are three checkpoints by then."""

    def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == 25:
            os.kill(os.getpid(), signal.SIGTERM)


def _run(path: Path, *overrides: str, stop: bool) -> RunFolder:
    config = plain_config(Composer("train").compose([*SMALL, *overrides]))
    job = build_job(config)
    path.mkdir()
    folder = RunFolder(path)
    if not stop:
        run_training(job, folder)
        return folder
    job.callbacks = lambda: [_Stop()]
    with pytest.raises(TrainingStopped):
        run_training(job, folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """Stopped in its third epoch; the same, uninterrupted; one of another seed."""
    place = tmp_path_factory.mktemp("runs")
    return {
        "stopped": _run(place / "stopped", stop=True),
        "whole": _run(place / "whole", stop=False),
        "other": _run(place / "other", "seed=7", stop=True),
    }


class _Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch hacked",)


def _cut(file: Path, size: int = 3000) -> None:
    file.write_bytes(file.read_bytes()[:size])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def _pickle_with_our_checksum(run: RunFolder) -> None:
    content = read_checkpoint(run.last_checkpoint)
    write_checkpoint(run.last_checkpoint, {**content, "extra": _Evil()})


def _evil_config(run: RunFolder, **changes: Any) -> None:
    run.write_config({**run.read_config(), **changes})


def _swap(one: Path, other: Path) -> None:
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def _outside(run: RunFolder) -> None:
    run.last_checkpoint.rename("outside.ckpt")
    run.last_checkpoint.symlink_to(Path("outside.ckpt").resolve())


def _tensors_larger_than_the_file(run: RunFolder) -> None:
    content = read_checkpoint(run.best_checkpoint)
    state = {key: torch.zeros(1).expand(v.shape) for key, v in content["state_dict"].items()}
    write_checkpoint(run.best_checkpoint, {"state_dict": state, "epoch": 0})


def _network_of_another_size(run: RunFolder) -> None:
    content = read_checkpoint(run.best_checkpoint)
    del content["run"]  # a stranger need not say
    write_checkpoint(run.best_checkpoint, content)
    _evil_config(run, model={"_target_": "cnnexp.models.SeedCNN", "channels": [10**6] * 3})


class _Memory:
    """300 MB for some bytes, by a name that weights_only lets pass."""

    def __reduce__(self) -> Any:
        return bytearray, (300_000_000,)


def _memory_bomb(run: RunFolder) -> None:
    content = read_checkpoint(run.best_checkpoint)
    write_checkpoint(run.best_checkpoint, {**content, "extra": _Memory()})


def _overlapping_entries(run: RunFolder) -> None:
    """A central directory whose entries all lead to the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data/0", b"x" * 100_000)
        entry = archive.infolist()[0]
        for number in range(1, 50):
            twin = copy.copy(entry)
            twin.filename = f"a/data/{number}"
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
        archive._didModify = True  # pyright: ignore[reportAttributeAccessIssue]
    content = bytearray(stream.getvalue())
    content[-2:] = struct.pack("<H", 0)
    digest = hashlib.sha256(content[:-2]).hexdigest().encode()
    mark = b"cnnexp sha256 " + digest
    run.best_checkpoint.write_bytes(content[:-2] + struct.pack("<H", len(mark)) + mark)


def _link(file: Path, content: bytes = b"precious" * 100) -> None:
    """Replace ``file`` by a link to something outside the run folder."""
    file.unlink()
    Path("precious").write_bytes(content)
    file.symlink_to(Path("precious").resolve())


Damage = Callable[[RunFolder, RunFolder], object]
BACK = "going back to previous.ckpt"

# Going on with the run: what it says, and the exit code; 0 if it ends as if nothing had been damaged.
RESUMED: dict[str, tuple[Damage, int, str]] = {
    "last.ckpt cut": (lambda r, o: _cut(r.last_checkpoint), 0, f"is truncated, .*{BACK}"),
    "last.ckpt with a flipped bit": (lambda r, o: _flip(r.last_checkpoint), 0, f"is corrupt: .*{BACK}"),
    "last.ckpt empty": (lambda r, o: r.last_checkpoint.write_bytes(b""), 0, f"is empty; {BACK}"),
    "last.ckpt missing": (lambda r, o: r.last_checkpoint.unlink(), 0, f"is missing; {BACK}"),
    "last.ckpt a folder": (
        lambda r, o: (r.last_checkpoint.unlink(), r.last_checkpoint.mkdir()),
        1,
        r"last\.ckpt: is no file; .*failed: IsADirectoryError: .* 'run/checkpoints/last\.ckpt'",
    ),
    "last.ckpt and best.ckpt exchanged": (
        lambda r, o: _swap(r.last_checkpoint, r.best_checkpoint),
        0,
        f"does not say where the training was; {BACK}.*is not of epoch .; testing the last epoch inst",
    ),
    "last.ckpt of another run": (
        lambda r, o: shutil.copy(o.last_checkpoint, r.last_checkpoint),
        0,
        f"is of another run .*{BACK}",
    ),
    "last.ckpt a malicious pickle": (
        lambda r, o: r.last_checkpoint.write_bytes(pickle.dumps(_Evil())),
        0,
        f"was not written by cnnexp; {BACK}",
    ),
    "last.ckpt a malicious pickle with our checksum": (
        lambda r, o: _pickle_with_our_checksum(r),
        0,
        f"holds more than tensors and plain types: .*{BACK}",
    ),
    "last.ckpt outside": (lambda r, o: _outside(r), 2, r"last\.ckpt: is a link, and what it leads"),
    "metrics.csv outside": (lambda r, o: _link(r.metrics), 2, r"metrics\.csv: is a link, and what"),
    "train.log outside": (lambda r, o: (r.log.touch(), _link(r.log)), 2, r"train\.log: is a link, and"),
    "checkpoints/ outside": (
        lambda r, o: (r.checkpoints.rename("away"), r.checkpoints.symlink_to(Path("away").resolve())),
        2,
        r"checkpoints: is a link, and what it leads to may be nobody's run",
    ),
    "config.yaml nested": (lambda r, o: r.config.write_text("[" * 3000 + "]" * 3000), 2, "cannot be read"),
    "config.yaml with no date": (lambda r, o: r.config.write_text("a: 2024-13-45"), 2, "cannot be read"),
    "all checkpoints cut": (
        lambda r, o: (_cut(r.last_checkpoint), _cut(r.previous_checkpoint)),
        1,
        r"failed: .*last\.ckpt: is truncated, .*previous\.ckpt: is truncated, .*No good checkpoint is left",
    ),
    "checkpoints/ missing": (
        lambda r, o: shutil.rmtree(r.checkpoints), 0, "no checkpoint yet, starting anew"
    ),
    "metrics.csv cut": (
        lambda r, o: _cut(r.metrics, 50), 0, r"metrics\.csv is shorter .*its curve has a gap"
    ),
    "event files missing": (
        lambda r, o: shutil.rmtree(r.tensorboard), 0, r"events\.out.* is shorter .* has a gap"
    ),
    "config.yaml missing": (lambda r, o: r.config.unlink(), 2, "run=run: holds no run"),
    "config.yaml cut": (
        lambda r, o: _cut(r.config, 200), 2, r"cnnexp\.train: .*(missing|cannot be read|required)"
    ),
    "config.yaml of another run": (
        lambda r, o: shutil.copy(o.config, r.config), 1, r"last\.ckpt: is of another run"
    ),
    "config.yaml with _target_: os.system": (
        lambda r, o: _evil_config(r, optimizer={"_target_": "os.system", "command": "touch hacked"}),
        2,
        r"optimizer\._target_=os\.system is not allowed",
    ),
    "config.yaml with a callback of Hydra's": (
        lambda r, o: _evil_config(r, hydra={"callbacks": {"x": {"_target_": "os.system"}}}),
        2,
        "holds 'hydra', which no run's config does",
    ),
    "config.yaml with a Python object": (
        lambda r, o: r.config.write_text("a: !!python/object/apply:os.system ['touch hacked']"),
        2,
        "cannot be read: could not determine a constructor",
    ),
    "config.yaml too large": (
        lambda r, o: r.config.write_text("a: " + "x" * (1 << 20)), 2, "which no run's config has"
    ),
    "status.json cut": (lambda r, o: _cut(r.status, 20), 1, r"status\.json: cannot be read: "),
    "status.json missing": (lambda r, o: r.status.unlink(), 2, "run=run: holds no run"),
    "provenance.json no JSON": (
        lambda r, o: r.provenance.write_bytes(b"\xff\xfe"), 1, r"provenance\.json: cannot be read"
    ),
    "provenance.json of other data": (
        lambda r, o: r.write_provenance({"dataset": {"name": "mnist", "checksum": "0"}}),
        2,
        "began on mnist with the checksum 0, but the data found now has the checksum",
    ),
}  # fmt: skip


@pytest.fixture
def damaged(runs: dict[str, RunFolder], empty_folder: Path) -> Callable[[Damage, str], RunFolder]:
    def make(damage: Damage, of: str) -> RunFolder:
        shutil.copytree(runs[of].path, "run")
        run = RunFolder("run")
        damage(run, runs["other"])
        return run

    return make


def _command(
    main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["cnnexp", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def _weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return read_checkpoint(run.last_checkpoint)["state_dict"]


@pytest.mark.parametrize("name", RESUMED)
def test_going_on_with_a_damaged_run(
    name: str,
    runs: dict[str, RunFolder],
    damaged: Callable[[Damage, str], RunFolder],
    empty_folder: Path,
    own_logging: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage, code, message = RESUMED[name]
    run = damaged(damage, "stopped")
    ended = _command(train.main, monkeypatch, "run=run")
    said = "".join(capsys.readouterr())
    assert ended == code, said
    assert "Traceback" not in said
    assert re.search(message, said, re.DOTALL), said
    assert not (empty_folder / "hacked").exists()
    assert not list(empty_folder.rglob("*.part"))
    precious = empty_folder / "precious"
    assert not precious.exists() or precious.read_bytes() == b"precious" * 100
    if code == 0:
        ours, theirs = _weights(run), _weights(runs["whole"])
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        if "testing the last epoch instead" in said:
            assert run.read_result()["best_epoch"] == 3
            return
        assert run.read_result()["test/acc"] == runs["whole"].read_result()["test/acc"]


# Using its network: what it says; each is an error.
USED: dict[str, tuple[Damage, int, str]] = {
    "best.ckpt cut": (lambda r, o: _cut(r.best_checkpoint), 1, r"best\.ckpt: is truncated"),
    "best.ckpt with a flipped bit": (lambda r, o: _flip(r.best_checkpoint), 1, "is corrupt: its SHA"),
    "best.ckpt of another run": (
        lambda r, o: shutil.copy(o.best_checkpoint, r.best_checkpoint), 1, "is of another run"
    ),
    "best.ckpt with tensors larger than itself": (
        lambda r, o: _tensors_larger_than_the_file(r),
        1,
        "holds tensors that are larger than the file",
    ),
    "no checkpoint": (
        lambda r, o: shutil.rmtree(r.checkpoints), 1, r"best\.ckpt: cannot be read: No such file"
    ),
    "a network of another size": (
        lambda r, o: _network_of_another_size(r), 1, r"is not of the network in config\.yaml: network\."
    ),
    "best.ckpt that asks for memory": (
        lambda r, o: _memory_bomb(r), 1, "holds more than tensors and plain types: bytearray"
    ),
    "best.ckpt with entries that overlap": (
        lambda r, o: _overlapping_entries(r), 1, "holds entries that overlap"
    ),
    "best.ckpt without end": (
        lambda r, o: (r.best_checkpoint.unlink(), r.best_checkpoint.symlink_to("/dev/zero")),
        2,
        r"best\.ckpt: is a link",
    ),
    "provenance.json a pipe": (
        lambda r, o: (r.provenance.unlink(), os.mkfifo(r.provenance)), 1, "cannot be read: it is no file"
    ),
    "_target_: os.system": (
        lambda r, o: _evil_config(r, model={"_target_": "os.system", "command": "touch hacked"}),
        2,
        r"model\._target_=os\.system is not allowed",
    ),
    "a network that would fetch weights": (
        lambda r, o: _evil_config(r, model={"_target_": "torchvision.models.segmentation.fcn_resnet50"}),
        2,
        r"fcn_resnet50: is no classifier of torchvision\.models",
    ),
    "provenance.json missing": (
        lambda r, o: r.provenance.unlink(), 1, "does not say what the run was trained on"
    ),
    "provenance.json with a huge shape": (
        lambda r, o: r.write_provenance({"dataset": {"shape": [1, 10**6, 10**6], "classes": ["a", "b"]}}),
        1,
        "are too large",
    ),
    "provenance.json with nonsense": (
        lambda r, o: r.write_provenance({"dataset": {"shape": "x", "classes": 3}}),
        1,
        "does not say what the run was trained on",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", USED)
@pytest.mark.parametrize("module", [evaluate, predict, export], ids=lambda m: m.__name__)
def test_using_a_damaged_run(
    name: str,
    module: Any,
    damaged: Callable[[Damage, str], RunFolder],
    empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage, code, message = USED[name]
    run = damaged(damage, "whole")
    before = sorted(empty_folder.rglob("*"))
    more = {"cnnexp.predict": ["x.png"], "cnnexp.export": ["format=torch_export"]}
    assert _command(module.main, monkeypatch, "run=run", *more.get(module.__name__, [])) == code
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert error.startswith(f"{module.__name__}: ")
    assert sorted(empty_folder.rglob("*")) == before
    assert run.path.is_dir()
