from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from cnnexp.runs import (
    FolderInUseError,
    RunFolder,
    claim_run_folder,
    collect_provenance,
    config_hash,
    folder_lock,
    git_state,
)
from cnnexp.runs.files import write_json, write_text

NOW = datetime(2026, 1, 2, 3, 4, 5)


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: claim_run_folder(tmp_path / "x", NOW), range(20)))
    names = {folder.path.name for folder in folders}
    assert len(names) == 20
    assert {"2026-01-02_03-04-05", "2026-01-02_03-04-05-2"} <= names


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.read_status() == run.read_result() == run.read_provenance() == {}
    assert run.read_metrics() == []
    config = {"seed": 1, "model": {"channels": [1, 2]}, "lr": 1e-8, "name": "größer"}
    run.write_config(config)
    assert run.read_config() == config
    run.write_status("failed", epoch=2, step=30, error="it broke")
    status = run.read_status()
    assert (status["state"], status["epoch"], status["error"]) == ("failed", 2, "it broke")
    run.write_result({"test/acc": 0.5, "val/acc": float("nan")})
    assert run.read_result() == {"test/acc": 0.5, "val/acc": None}
    run.append_metrics({"train/loss": 0.1 + 0.2}, epoch=1, step=4)
    run.append_metrics({"test/acc": 1.0}, epoch=None, step=9)
    assert run.read_metrics() == [
        {"epoch": 1, "step": 4, "name": "train/loss", "value": 0.1 + 0.2},
        {"epoch": None, "step": 9, "name": "test/acc", "value": 1.0},
    ]
    assert run.metrics.read_text().splitlines()[0] == "epoch,step,name,value"


def test_how_a_run_ended_can_be_said_from_outside_and_how_far_it_was_stays(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_status("running", epoch=3, step=30, error="of before")
    folder.end_status("failed", "killed", last_lines=["a"])
    status = folder.read_status()
    assert status.pop("time")
    known = {"state": "failed", "epoch": 3, "step": 30, "error": "killed", "last_lines": ["a"]}
    assert status == known


def test_clear_keeps_the_log_only(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_status("failed")
    run.write_result({})
    run.log.write_text("log")
    for folder in (run.tensorboard, run.checkpoints):
        folder.mkdir()
        (folder / "file").touch()
    run.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["train.log"]


def test_remove_if_empty(tmp_path: Path) -> None:
    full, empty = RunFolder(tmp_path / "full"), RunFolder(tmp_path / "empty")
    full.path.mkdir()
    full.log.touch()
    empty.path.mkdir()
    for run in (full, empty, RunFolder(tmp_path / "missing")):
        run.remove_if_empty()
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_failed_write_leaves_the_old_file_and_no_scratch(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_text(file, "old")
    with pytest.raises(TypeError):
        write_json(file, {"set": {1, 2}})
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "\ud800")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_hash_is_of_the_job_not_of_where_it_runs() -> None:
    config = {"seed": 1, "data": {"name": "mnist", "root": "a"}, "name": "x", "output_dir": "y"}
    moved = {"output_dir": "z", "name": "w", "data": {"root": "b", "name": "mnist"}, "seed": 1}
    assert config_hash(config) == config_hash(moved)
    assert config_hash(config) != config_hash({**config, "seed": 2})
    assert config_hash(config) != config_hash({**config, "data": {"name": "digits"}})
    assert len(config_hash(config)) == 12


def test_a_key_that_came_later_leaves_the_hash_as_it_was_at_its_default() -> None:
    assert config_hash({"seed": 1, "on_nan": "stop"}) == config_hash({"seed": 1})
    assert config_hash({"seed": 1, "on_nan": "skip"}) != config_hash({"seed": 1})
    assert config_hash({"seed": 1, "test": True}) == config_hash({"seed": 1})
    assert config_hash({"seed": 1, "test": False}) != config_hash({"seed": 1})


def test_provenance_names_command_versions_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = [sys.executable, "-m", "cnnexp.train", "data.classes=[3, 8]"]
    monkeypatch.setattr(sys, "orig_argv", typed)
    provenance = collect_provenance(seed=3)
    assert provenance["seed"] == 3
    python = Path(sys.executable).name
    assert provenance["command"] == f"{python} -m cnnexp.train 'data.classes=[3, 8]'"
    assert {"torch", "lightning", "hydra-core"} <= provenance["versions"].keys()
    assert all(provenance["versions"].values())
    json.dumps(provenance)


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_git_state_of_clean_dirty_untracked_and_none(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("1")
    assert git_state(source) is None
    _git(tmp_path, "init", "-q")
    assert git_state(source) is None  # as a package installed inside somebody's checkout
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "x")
    assert git_state(source) == {"commit": _git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    source.write_text("2")
    state = git_state(source)
    assert state is not None
    assert state["dirty"]


def test_one_process_a_folder_until_it_dies(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from cnnexp.runs import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with (
        pytest.raises(FolderInUseError, match=r"another process is training in .*; wait for it"),
        folder_lock(tmp_path, patience=0.2),
    ):
        pass
    other.kill()
    with folder_lock(tmp_path):
        assert list(tmp_path.iterdir()) == []
    other.communicate()
