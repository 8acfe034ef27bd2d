"""``python -m cnnexp.train`` as its users call it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cnnexp import train
from cnnexp.config import conf_dir
from cnnexp.runs import RunFolder
from tests.conftest import Command
from tests.data.idx import write_mnist
from tests.warm_commands import WarmProcess

# LeNet-5, one epoch on the digits: the way through in seconds
SHORT = ("model=lenet5", "data=digits", "trainer.max_epochs=1", "accelerator=cpu")


def run_folders(folder: Path) -> list[RunFolder]:
    return [RunFolder(file.parent) for file in sorted(folder.rglob("status.json"))]


@pytest.mark.parametrize(
    "flags", [("--help",), ("--cfg", "job"), ("--cfg", "job", "optimizer=sgd")]
)
def test_help_and_cfg_import_neither_torch_nor_lightning(command: Command, flags: Any) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['cnnexp.train', *{list(flags)!r}]\n"
        "try: runpy.run_module('cnnexp.train', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'lightning', 'torchvision', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "optimizer" in done.stdout


def test_help_lists_every_choice_and_how_to_use_them(command: Command) -> None:
    done = command("cnnexp.train", "--help")
    assert done.returncode == 0
    assert "python -m cnnexp.train -m optimizer=adam,sgd seed=0,1" in done.stdout
    for group in ("backward", "optimizer", "model", "regularization", "scheduler"):
        part = done.stdout.partition(f"\n{group}:\n")[2].partition("\n\n")[0]
        names = [line.strip("* ").split()[0] for line in part.splitlines()]
        assert names == sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))
        assert all(len(line.split()) > 2 for line in part.splitlines())  # each says what it is


def test_help_says_what_each_value_means(command: Command, empty_folder: Path) -> None:
    own = empty_folder / "own" / "model"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(
        "# My network\n_target_: my.Net\nwide: 3  # how wide\ndeep: {a: 1}\nlist:  # of things\n  - 1\n"
    )
    done = command("cnnexp.train", "--help", "--config-dir", "own", "model=mine", "seed=7")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "* mine My network" in lines
    for line in (
        "wide: 3 how wide", "list: [1] of things", "seed: 7 seed of weights, split and order of the data",
        "monitor: val/acc which epoch is tested: that with the greatest val/acc | the least val/loss "
        "| a metric of metrics, val/f1",
    ):  # fmt: skip
        assert line in lines
    assert "name: ${hydra:runtime.choices.model}" in done.stdout
    resolved = command("cnnexp.train", "--help", "--resolve", "model=tiny").stdout
    assert re.search(r"^name: tiny ", resolved, re.M)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimizer=muon", "scheduler=wsd"], "checked: this run can start"),
        (["-m", "optimizer=adam,sgd", "seed=0,1"], "checked: 4 jobs can start"),
    ],
)
def test_validate_only_checks_and_leaves_nothing_behind(
    command: Command, empty_folder: Path, arguments: list[str], said: str
) -> None:
    done = command("cnnexp.train", *arguments, "data=digits", "validate_only=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == said
    assert list(empty_folder.iterdir()) == []
    wrong = command(
        "cnnexp.train", *arguments, "data=digits", "validate_only=true", "optimizer.lr=-1"
    )
    assert wrong.returncode == 2
    assert list(empty_folder.iterdir()) == []


MISUSE = [
    (["optimizer=adm"], "optimizer=adm: unknown choice; known: adadelta, adagrad, adam, "),
    (
        ["optimizer.lrr=1"],
        "optimizer.lrr=1: there is no key 'optimizer.lrr' in the config. Did you",
    ),
    (["optimizer.lr=fast"], "optimizer.lr=fast: must be a number, but is text"),
    (["data.batch_size=0"], "data.batch_size=0: must be at least 1"),
    (["--cfg", "job", "optimizer=adm"], "optimizer=adm: unknown choice"),
    (
        ["-m", "optimizer=adam,sgd", "optimizer.lr=1,-1"],
        "refuses its arguments: Invalid learning rate",
    ),
    (["-m", "optimizer=adam,adm"], "optimizer=adm: unknown choice"),
    (["--help", "optimizer=adm"], "optimizer=adm: unknown choice"),
    (["--info", "config", "optimizer=adm"], "optimizer=adm: unknown choice"),
    (["--resolve"], "--resolve goes with --cfg or --help"),
    (["logger=null"], "logger"),
    (["-m", "optimizer.lr=interval(1,2)"], "write optimizer.lr=value,value"),
    (["-m", "seed=0,1", "output_dir=/proc/x"], "hydra.sweep.dir: cannot make /proc/x/sweeps"),
    (["hydra.run.dir=/proc/x"], "hydra.run.dir: cannot make /proc/x"),
    (["--config-path", "nowhere"], "nowhere: there is no such folder"),
    (["--config-dir", "nowhere"], "--config-dir=nowhere: there is no such folder"),
    (["--config-name", "trian"], "trian"),
    (
        [
            "+callbacks.x._target_=lightning.pytorch.callbacks.EarlyStopping",
            "+callbacks.x.monitor=val_loss",
        ],
        "perf/train_seconds. Did you mean 'val/loss'?",
    ),
    (
        ["+trainer.barebones=true"],
        "trainer.barebones: a run without metrics and checkpoints is none",
    ),
    (["data=mnist", "data.fallback=error"], "data.fallback=digits to train on the bundled digits"),
]


@pytest.mark.parametrize(("arguments", "message"), MISUSE, ids=lambda v: "")
def test_misuse_is_one_message_exit_code_2_and_nothing_left_behind(
    empty_folder: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "--resolve" not in arguments:
        fallback = any(a.startswith("data.fallback") for a in arguments)
        arguments = [*arguments, "data.download=false" if fallback else "data=digits"]
    monkeypatch.setattr(sys, "argv", ["cnnexp.train", *arguments])
    with pytest.raises(SystemExit) as stop:
        train.main()
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("cnnexp.train: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert list(empty_folder.iterdir()) == []
    assert sys.argv == ["cnnexp.train", *arguments]


def test_gpu_where_there_is_none_as_a_process(command: Command, empty_folder: Path) -> None:
    done = command("cnnexp.train", "accelerator=gpu", "data=digits", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr == (
        "cnnexp.train: accelerator=gpu: this machine has 0 usable GPUs; "
        "use accelerator=cpu or auto\n"
    )
    assert list(empty_folder.iterdir()) == []


def test_a_corrupt_data_file_is_a_failure_that_names_it(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mnist(empty_folder / "data")
    monkeypatch.setattr(sys, "argv", ["cnnexp.train"])
    with pytest.raises(SystemExit) as stop:
        train.main()
    assert stop.value.code == 1
    assert "train-images-idx3-ubyte is corrupt or truncated" in capsys.readouterr().err
    assert [path.name for path in empty_folder.iterdir()] == ["data"]


def test_offline_with_an_empty_data_folder_it_trains_on_the_digits_and_says_so_once(
    command: Command, empty_folder: Path
) -> None:
    short = [argument for argument in SHORT if argument != "data=digits"]
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = command("cnnexp.train", *short, **offline)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("NO MNIST") == 1
    (run,) = run_folders(empty_folder)
    assert run.read_result()["dataset"] == "digits"
    assert run.read_provenance()["dataset"]["sizes"] == [1317, 120, 360]  # as 55,000 to 5,000
    assert run.log.read_text().count("NO MNIST") == 1
    assert not (empty_folder / "data").exists()


def test_a_run_prints_lines_and_writes_the_run_folder(command: Command, empty_folder: Path) -> None:
    done = command(
        "cnnexp.train", *SHORT, "optimizer=sgd", "regularization=l2", "scheduler=onecycle"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no warnings, no progress bar where there is no terminal
    lines = done.stdout.splitlines()
    about = [line for line in lines if line.startswith("backward auto: ")]
    assert about[-1].startswith("backward auto: the step ")
    first, epoch, health, test, where = [line for line in lines if line not in about]
    assert first.startswith("cnnexp 0.2.0  LeNet5, 61,706 parameters  backward auto  digits")
    assert epoch.startswith("epoch 1/1  train/loss ")
    assert health == "health: nothing conspicuous in 11 steps"
    assert test.startswith("test/acc ")
    (run,) = run_folders(empty_folder)
    assert where == f"run folder {run.path.relative_to(empty_folder)}"
    assert run.path.parent == empty_folder / "outputs" / "train" / "lenet5"
    assert {path.name for path in run.path.iterdir()} == {
        "config.yaml", "provenance.json", "status.json", "metrics.csv", "tensorboard",
        "checkpoints", "result.json", "evidence.json", "train.log",
    }  # fmt: skip
    assert run.read_provenance()["command"].endswith("cnnexp.train " + " ".join(SHORT) + (
        " optimizer=sgd regularization=l2 scheduler=onecycle"
    ))  # fmt: skip
    assert run.read_config()["data"]["split_seed"] == 0  # resolved
    assert "test/acc" in run.log.read_text()


def test_on_a_terminal_the_lines_stand_above_the_progress_bar(empty_folder: Path) -> None:
    terminal, ours = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    command = [sys.executable, "-m", "cnnexp.train", *SHORT]
    process = subprocess.Popen(command, stdin=ours, stdout=ours, stderr=ours)
    os.close(ours)
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(terminal)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert "train/loss_step=" in text
    assert "v_num" not in text
    lines = re.split(r"[\r\n]+", text)
    assert any(line.startswith("epoch 1/1  train/loss ") for line in lines)
    assert not any("it/s" in line for line in lines if "epoch 1/1" in line)


def test_a_config_yaml_runs_again_with_the_same_result(
    command: Command, empty_folder: Path
) -> None:
    assert command("cnnexp.train", *SHORT, "seed=3", "optimizer.lr=0.002").returncode == 0
    (first,) = run_folders(empty_folder)
    again = command("cnnexp.train", "--config-dir", str(first.path), "--config-name", "config")
    assert again.returncode == 0, again.stderr
    _, second = run_folders(empty_folder)
    one, two = first.read_result(), second.read_result()
    for key in ("seconds_fit", "images_per_second"):
        del one[key], two[key]
    assert one == two
    assert first.read_config() == second.read_config()


def test_a_sweep_makes_one_folder_a_job_and_skips_what_is_done(
    command: Command, empty_folder: Path
) -> None:
    few = ("backward=direct", "name=opt", "optimizer=adam,sgd", "seed=0,1", "data.size=200")
    own = ["data=synthetic" if each == "data=digits" else each for each in SHORT]
    sweep = ("cnnexp.train", "-m", *own, "data.val_size=40", *few)
    done = command(*sweep)
    assert done.returncode == 0, done.stderr
    runs = run_folders(empty_folder)
    assert len(runs) == 4
    for run in runs:
        result = run.read_result()
        assert run.path == empty_folder / "outputs" / "sweeps" / "opt" / result["config_hash"]
    settings = {(r.read_config()["optimizer"]["_target_"], r.read_config()["seed"]) for r in runs}
    assert len(settings) == 4
    before = [run.result.stat().st_mtime_ns for run in runs]
    again = command(*sweep)
    assert again.returncode == 0
    assert again.stdout.count("is done already") == 4
    assert [run.result.stat().st_mtime_ns for run in runs] == before
    # results on data that is not found now are never overwritten
    provenance = runs[0].read_provenance()
    kept = provenance["dataset"]["name"]
    provenance["dataset"] |= {"checksum": "of other data", "name": "mine"}
    runs[0].write_provenance(provenance)
    refused = command(*sweep)
    assert refused.returncode == 2
    assert (
        "began on mine with the checksum of other data, but the data found now has"
        in refused.stderr
    )
    assert "what is there would be lost; give data.root or CNNEXP_DATA as then" in refused.stderr
    assert [run.result.stat().st_mtime_ns for run in runs] == before
    # what digits gave that stood in for the data set is no result of this job
    assert kept != "digits"
    provenance["dataset"]["name"] = "digits"
    runs[0].write_provenance(provenance)
    assert command(*sweep).stdout.count("is done already") == 3
    assert runs[0].result.stat().st_mtime_ns > before[0]


def test_a_failing_job_lets_the_others_run_and_the_sweep_exits_with_1(
    command: Command, empty_folder: Path
) -> None:
    # a callback of the user's own that passes the checks and breaks the first job
    (empty_folder / "mylab.py").write_text(
        "import lightning as L\n"
        "class Fail(L.Callback):\n"
        "    def __init__(self, at: int) -> None:\n"
        "        self.at = at\n"
        "    def on_train_start(self, trainer, pl_module):\n"
        "        if self.at: raise RuntimeError('it broke\\nhere')\n"
    )
    done = command(
        "cnnexp.train", "-m", *SHORT, "backward=direct", "name=x", "allow_targets=[mylab.]",
        "+callbacks.f._target_=mylab.Fail", "+callbacks.f.at=1,0", PYTHONPATH=str(empty_folder),
    )  # fmt: skip
    assert done.returncode == 1
    assert "failed: RuntimeError: it broke here  (outputs/sweeps/x/" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    states = sorted(run.read_status()["state"] for run in run_folders(empty_folder))
    assert states == ["done", "failed"]
    (failed,) = [run for run in run_folders(empty_folder) if run.read_status()["state"] == "failed"]
    assert "Traceback" in failed.log.read_text()
    assert failed.read_status()["error"] == "RuntimeError: it broke here"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_run_and_its_status_says_so(
    empty_folder: Path, number: signal.Signals, code: int
) -> None:
    process = WarmProcess(
        ("cnnexp.train", *SHORT, "trainer.max_epochs=500"), os.environ, empty_folder
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        runs = run_folders(empty_folder)
        if runs and runs[0].read_status().get("epoch", 0) >= 2:
            break
        time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in out + err
    (run,) = run_folders(empty_folder)
    assert run.read_status()["state"] == "stopped"
    assert run.read_status()["epoch"] >= 2
    assert run.last_checkpoint.exists()
    assert not run.result.exists()
    assert err.count("stopping after this step; once more stops at once") == 1


def test_a_folder_with_a_run_in_it_is_not_overwritten(command: Command, empty_folder: Path) -> None:
    assert command("cnnexp.train", *SHORT, "hydra.run.dir=here").returncode == 0
    before = json.loads((empty_folder / "here" / "status.json").read_text())
    again = command("cnnexp.train", *SHORT, "hydra.run.dir=here")
    assert again.returncode == 2
    assert again.stderr == (
        "cnnexp.train: hydra.run.dir=here: there is a run in it; name another folder\n"
    )
    assert json.loads((empty_folder / "here" / "status.json").read_text()) == before


def test_a_name_with_odd_characters(command: Command, empty_folder: Path) -> None:
    done = command("cnnexp.train", *SHORT, "name='it is, a=name'")
    assert done.returncode == 0, done.stderr
    (run,) = run_folders(empty_folder)
    assert run.path.parent.name == "it is, a=name"
    assert yaml.safe_load(run.config.read_text())["name"] == "it is, a=name"


def test_an_output_folder_that_cannot_be_made(command: Command, empty_folder: Path) -> None:
    (empty_folder / "file").touch()
    done = command("cnnexp.train", *SHORT, "output_dir=file")
    assert done.returncode == 2
    assert done.stderr.startswith("cnnexp.train: output_dir: cannot make file/train/lenet5: ")
    assert os.listdir(empty_folder) == ["file"]
