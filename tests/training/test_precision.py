"""A training whose precision is chosen: what is chosen is what runs, is written down, and stays."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from cnnexp.diagnostics import DiagnosticsSettings
from cnnexp.models import SeedCNN
from cnnexp.runs import RunFolder
from cnnexp.training import TrainingJob, precision, read_checkpoint, run_training
from cnnexp.tuning import PrecisionChoice, StepChoice
from tests.training.processes import train
from tests.training.resumable import assert_same_run, new_folder, same, small_job
from tests.training.test_private import private_job

LAYERS = {"features.0": "direct", "features.3": "im2col", "classifier": "native"}


def _job(*callbacks: Callback, **changes: Any) -> TrainingJob:
    settings = {
        "network": lambda images: SeedCNN(channels=[4, 8]),
        "diagnostics": DiagnosticsSettings("off"),
        "backward": "auto",
        "choose_precision": True,
        "config": {"seed": 0, "accelerator": {"precision": "auto"}},
    }
    return small_job(*callbacks, **settings | changes)


def _chooses(bfloat16: bool, ratio: float) -> Any:
    return lambda *_: PrecisionChoice(bfloat16, StepChoice(LAYERS, 0.9), ratio)


def _config(folder: RunFolder) -> dict[str, Any]:
    return yaml.safe_load(folder.config.read_text(encoding="utf-8"))


def _weights(folder: RunFolder) -> Any:
    return read_checkpoint(folder.last_checkpoint)["state_dict"]


@pytest.mark.parametrize(
    ("bfloat16", "ratio", "said"),
    [
        (True, 0.724, "precision auto: bf16-mixed, the step takes 0.72 of float32's"),
        (False, 1.31, "precision auto: 32-true, in bf16-mixed the step takes 1.31 of float32's"),
    ],
)
def test_what_is_chosen_is_what_runs(
    bfloat16: bool,
    ratio: float,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda _: True)
    monkeypatch.setattr(precision, "choose_precision", _chooses(bfloat16, ratio))
    name = "bf16-mixed" if bfloat16 else "32-true"
    folder = new_folder(tmp_path / "chosen")
    with caplog.at_level(logging.INFO):
        result = run_training(_job(), folder)
    assert caplog.text.count(said) == 1
    assert f"on cpu in {name}  seed 0" in caplog.text
    assert (result["precision"], result["backward/layers"]) == (name, LAYERS)
    assert _config(folder)["accelerator"] == {"precision": "auto", "chosen_precision": name}
    assert _config(folder)["backward"]["layers"] == LAYERS
    provenance = folder.read_provenance()
    assert [provenance[key] for key in ("precision", "precision_ratio", "step_ratio")] == [
        name, ratio, 0.9,
    ]  # fmt: skip

    caplog.clear()  # the same by its name
    job = _job(backward_layers=LAYERS, choose_precision=False)
    job.trainer = {**job.trainer, "precision": name}
    named = new_folder(tmp_path / "named")
    with caplog.at_level(logging.INFO):
        run_training(job, named)
    assert "precision auto" not in caplog.text
    assert same(_weights(folder), _weights(named))


def test_it_is_measured_by_real_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda _: True)
    folder = new_folder(tmp_path / "run")
    result = run_training(_job(epochs=1), folder)
    ratio = folder.read_provenance()["precision_ratio"]
    assert result["precision"] == ("bf16-mixed" if ratio < 0.97 else "32-true")
    assert set(result["backward/layers"]) == set(LAYERS)


def test_a_way_that_is_named_stays_as_the_precision_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda _: True)
    result = run_training(_job(epochs=1, backward="direct"), new_folder(tmp_path / "run"))
    assert result["precision"] in ("bf16-mixed", "32-true")
    assert set(result["backward/layers"].values()) == {"direct"}


def test_nothing_is_measured_where_bfloat16_is_no_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "choose_precision", lambda *_: pytest.fail("measured"))
    private = private_job(epochs=1)
    private.choose_precision = True
    cases = [
        (_job(epochs=1, backward="direct"), False, "32-true, since this cpu does not multiply bf"),
        (private, True, "32-true, since privacy clips by norms that bfloat16 rounds"),
    ]
    for i, (job, able, said) in enumerate(cases):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda _, able=able: able)
        folder = new_folder(tmp_path / str(i))
        with caplog.at_level(logging.INFO):
            result = run_training(job, folder)
        assert f"precision auto: {said}" in caplog.text
        assert result["precision"] == "32-true"
        assert _config(folder)["accelerator"]["chosen_precision"] == "32-true"
        assert "precision_ratio" not in folder.read_provenance()


class _Fails(Callback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_train_batch_end(self, trainer: Any, *_: Any, **_options: Any) -> None:
        if trainer.global_step == self._step:
            raise RuntimeError("crashed")


def test_a_run_that_is_resumed_keeps_what_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda _: True)
    monkeypatch.setattr(precision, "choose_precision", _chooses(True, 0.7))
    whole, folder = (new_folder(tmp_path / name) for name in ("whole", "run"))
    run_training(_job(), whole)
    with pytest.raises(RuntimeError, match="crashed"):
        run_training(_job(_Fails(9)), folder)
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda _: pytest.fail("asked again"))
    # as a sweep resumes its job, by the config that has no choice; and by the run's own
    result = run_training(_job(backward_layers=LAYERS), folder, resume=True)
    assert result["precision"] == "bf16-mixed"
    assert _config(folder)["accelerator"]["chosen_precision"] == "bf16-mixed"
    assert_same_run(whole, folder)


def _of_rank(rank: int) -> TrainingJob:
    """A job whose first rank chooses bfloat16; the others are not asked."""
    torch.set_num_threads(1)
    precision.multiplies_bfloat16 = lambda _: True
    precision.choose_precision = _chooses(True, 0.7) if rank == 0 else partial(_never)
    return _job(epochs=1)


def _never(*_: Any) -> Any:
    raise AssertionError("a later rank measured")


@pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="needs gloo"
)
def test_the_first_rank_decides_for_all(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train(_of_rank, folder) == [0, 0]
    result = folder.read_result()
    assert (result["precision"], result["backward/layers"]) == ("bf16-mixed", LAYERS)
