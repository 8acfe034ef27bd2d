"""``python -m cnnexp.train privacy=dp_sgd`` that is killed: what was spent stays spent."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from cnnexp.privacy import Accountant, Mechanism
from cnnexp.runs import RunFolder
from tests.conftest import Command
from tests.test_train import SHORT, run_folders
from tests.training.resumable import same

# kills its process in step $KILL_AT: once it is counted, once it has its gradient, or at its end
KILLER = """
import os, signal
import lightning as L
class Kill(L.Callback):
    def __init__(self, where: str) -> None:
        self.step, self.where = int(os.environ.get("KILL_AT", 0)), where
    def _at(self, where, step) -> None:
        if where == self.where and step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
    def on_fit_start(self, trainer, module) -> None:
        spend = module._spend
        def counted() -> None:
            spend()
            self._at("spent", trainer.global_step + 1)
        module._spend = counted
    def on_before_optimizer_step(self, trainer, *rest) -> None:
        self._at("gradient", trainer.global_step + 1)
    def on_train_batch_end(self, trainer, *rest) -> None:
        self._at("end", trainer.global_step)
"""
PRIVATE = (
    *SHORT,
    *("privacy=dp_sgd", "privacy.epsilon=null", "privacy.noise_multiplier=1"),
    *("privacy.secure_noise=false", "optimizer=sgd", "optimizer.lr=0.5", "trainer.max_epochs=2"),
    *("data.train_size=192", "data.val_size=40", "data.batch_size=48", "diagnostics=off"),
    "backward=fused",  # auto may choose otherwise in the other run
)


@pytest.mark.parametrize("where", ["spent", "gradient", "end"])
def test_a_killed_private_run_counts_every_step_and_ends_with_the_same_bits(
    command: Command, empty_folder: Path, where: str
) -> None:
    whole = command("cnnexp.train", *PRIVATE, "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    expected = RunFolder(empty_folder / "whole")
    steps = expected.read_result()["steps"]
    killed_at = steps // 2 + 2  # in the second epoch
    (empty_folder / "mylab.py").write_text(KILLER)
    allowed = {"PYTHONPATH": str(empty_folder), "CNNEXP_ALLOW_TARGETS": "mylab."}
    killer = ["+callbacks.k._target_=mylab.Kill", f"+callbacks.k.where={where}"]
    died = command("cnnexp.train", *PRIVATE, *killer, KILL_AT=str(killed_at), **allowed)
    assert died.returncode == -signal.SIGKILL
    (run,) = run_folders(empty_folder / "outputs")
    resumed = command("cnnexp.train", "run=latest", **allowed)
    assert resumed.returncode == 0, resumed.stderr
    result = run.read_result()
    assert result["steps"] == steps
    again = killed_at - steps // 2  # since the checkpoint at the end of the first epoch
    assert result["privacy/steps"] == steps + again
    rate = expected.read_result()["privacy/sampling_rate"]
    taken = [(Mechanism(1.0, rate), steps + again)]
    assert result["privacy/epsilon"] == Accountant("pld").epsilon(taken, 1e-5)
    ours, theirs = (torch.load(f.last_checkpoint, weights_only=True) for f in (run, expected))
    assert same(ours["state_dict"], theirs["state_dict"])
