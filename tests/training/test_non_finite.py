"""A loss, gradient or weight that is infinite or NaN: where it is found, and what is done about it."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from cnnexp.config import Composer, conf_dir, plain_config
from cnnexp.config.build import build_job
from cnnexp.data import load_digits
from cnnexp.diagnostics import DiagnosticsSettings
from cnnexp.optim import step as step_schedule
from cnnexp.regularization import L2, RandomShift
from cnnexp.runs import RunFolder
from cnnexp.training import (
    Classifier,
    NonFiniteError,
    TrainingStopped,
    read_checkpoint,
    run_training,
)
from cnnexp.training.callbacks import NonFiniteGuard
from cnnexp.training.non_finite import finite_flags, surely_finite
from tests.training.resumable import STEPS, assert_same_run, new_folder, small_job
from tests.training.test_resume import _Signal

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*"
)


@pytest.fixture(autouse=True)
def kernels_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has imported them, whatever ran before in this one."""
    monkeypatch.setattr("cnnexp.training.non_finite.has_kernels", lambda: True)


class _BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * math.inf


class Fuse(nn.Module):
    """Lets everything through, but at some training steps breaks the output or the gradient."""

    def __init__(self, steps: tuple[int, ...], way: str) -> None:
        super().__init__()
        self.steps, self.way, self.passed = steps, way, 0

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            # the second look of the guard is at the same step
            bad = self.training and self.passed in self.steps and self.way == "loss"
            return x * math.nan if bad else x
        self.passed += 1
        if self.passed not in self.steps:
            return x
        return x * math.nan if self.way == "loss" else _BadGradient.apply(x)


def _network(steps: tuple[int, ...], way: str) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), Fuse(steps, way),
        nn.Flatten(), nn.Linear(144, 10),
    )  # fmt: skip


def _job(
    way: str, *callbacks: Callback, steps: tuple[int, ...] = (STEPS + 2,), **changes: Any
) -> Any:
    settings: dict[str, Any] = {
        "network": lambda images: _network(steps, way),
        "backward": "native",
        "diagnostics": DiagnosticsSettings("basic", 4),  # full counts as passes of the fuse
    }
    return small_job(*callbacks, **settings | changes)


@pytest.mark.parametrize(
    ("way", "message", "layers"),
    [
        ("loss", "the loss is nan; the first output that is not finite is that of 3", ["5", "1", "0"]),
        ("gradient", "the gradient is infinite or not a number, first in 1, on the way", ["1", "0"]),
    ],
)  # fmt: skip
def test_it_stops_and_names_step_layer_and_images(
    way: str, message: str, layers: list[str], tmp_path: Path
) -> None:
    folder = new_folder(tmp_path / "run")
    job = _job(way, regularizers=[L2(1e-4), RandomShift(2)])
    with pytest.raises(NonFiniteError, match=message) as stop:
        run_training(job, folder)
    assert str(stop.value).startswith(f"step {STEPS + 2} (epoch 2, batch 2): the ")
    assert f"are in {folder.non_finite}. Lower optimizer.lr, clip" in str(stop.value)
    status = folder.read_status()
    assert (status["state"], status["epoch"], status["step"]) == ("failed", 1, STEPS + 1)
    assert status["error"] == str(stop.value)
    found = json.loads(folder.non_finite.read_text())
    assert (found["step"], found["epoch"], found["batches"]) == (STEPS + 2, 2, [2])
    assert found["layers"] == layers
    # these are the images of that batch, in the official training set
    loader = job.data.train_dataloader()
    loader.sampler.set_epoch(1)
    images, labels = list(loader)[1]
    official = load_digits().train.batch(torch.tensor(found["images"]))
    assert torch.equal(official[0], images)
    assert torch.equal(official[1], labels)
    # the weights were kept as they were before that step
    last = read_checkpoint(folder.last_checkpoint)
    assert all(v.isfinite().all() for v in last["state_dict"].values())
    assert last["cnnexp"]["step"] == STEPS


def test_accumulated_batches_are_all_named(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    trainer = {"max_epochs": 1, "accelerator": "cpu", "accumulate_grad_batches": 3}
    with pytest.raises(NonFiniteError, match=r"step 2 \(epoch 1, batch 4, 5, 6\): the gradient"):
        run_training(_job("gradient", steps=(5,), trainer=trainer), folder)
    assert len(json.loads(folder.non_finite.read_text())["images"]) == 32 + 32 + 10


class _Blow(Callback):
    """Makes a weight infinite at the end of a step, as a step that overflows does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                pl_module.network[5].weight[0, 0] = math.inf


@pytest.mark.parametrize("validates", [True, False])
def test_weights_that_are_not_finite_get_into_no_checkpoint(
    validates: bool, tmp_path: Path
) -> None:
    folder = new_folder(tmp_path / "run")
    trainer = {"max_epochs": 3, "accelerator": "cpu", "limit_val_batches": int(validates)}
    job = _job("none", steps=(), trainer=trainer, callbacks=lambda: [_Blow(2 * STEPS)])
    with pytest.raises(NonFiniteError, match="the weights of 5 are infinite or not a number"):
        run_training(job, folder)
    for file in folder.checkpoints.iterdir():
        content = read_checkpoint(file)
        assert all(v.isfinite().all() for v in content["state_dict"].values()), file
    run_training(_job("none", steps=(), trainer=trainer, callbacks=list), folder, resume=True)
    assert folder.read_status()["state"] == "done"


class _Weights(Callback):
    """The weights, running statistics and optimiser's moments after each step."""

    def __init__(self) -> None:
        self.after: list[dict[str, Tensor]] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        state = {k: v.clone() for k, v in pl_module.network.state_dict().items()}
        self.after.append({k: v for k, v in state.items() if v.is_floating_point()})
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("way", ["loss", "gradient"])
def test_skipped_steps_change_nothing_and_count_in_the_schedule(
    way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = new_folder(tmp_path / "run")
    seen = _Weights()
    job = _job(way, steps=(3, 4, 9), on_nan="skip", callbacks=lambda: [seen])
    job.scheduler = lambda optimizer, total: step_schedule(
        optimizer, total, every=1 / total, gamma=0.9
    )
    result = run_training(job, folder)
    assert (result["steps"], result["steps_skipped"]) == (3 * STEPS, 3)
    assert caplog.text.count("; skipped") == 3
    for i, (before, after) in enumerate(zip(seen.after, seen.after[1:], strict=False)):
        same = all(torch.equal(before[k], after[k]) for k in before)
        assert same == (i + 2 in (3, 4, 9)), i
    assert seen.rates == pytest.approx([3e-3 * 0.9**n for n in range(1, 3 * STEPS + 1)])
    rows = [r for r in folder.read_metrics() if r["name"] == "train/loss"]
    assert len(rows) == 3
    assert all(math.isfinite(r["value"]) for r in rows)


def test_a_skipping_run_resumes_exactly(tmp_path: Path) -> None:
    def job(*callbacks: Callback) -> Any:
        return _job("gradient", *callbacks, steps=(3,), on_nan="skip")

    whole, folder = new_folder(tmp_path / "whole"), new_folder(tmp_path / "run")
    run_training(job(), whole)
    with pytest.raises(TrainingStopped):
        run_training(job(_Signal("on_train_batch_end", STEPS + 3, signal.SIGTERM)), folder)
    later = _job("gradient", steps=(), on_nan="skip")  # the third step is done
    run_training(later, folder, resume=True)
    assert folder.read_result()["steps_skipped"] == 1
    assert_same_run(folder, whole)


def test_after_ten_in_a_row_it_stops(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(NonFiniteError, match=r"10 steps in a row were skipped; lower optimizer.lr"):
        run_training(_job("loss", steps=tuple(range(2, 99)), on_nan="skip"), folder)
    assert folder.read_status()["step"] == 11


@pytest.mark.parametrize("kernels", [True, False])
def test_a_good_step_ends_the_row(
    kernels: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnexp.training.non_finite.has_kernels", lambda: kernels)
    bad = (*range(2, 11), *range(12, 21))  # nine, a good one, nine
    result = run_training(
        _job("loss", steps=bad, on_nan="skip", epochs=4), new_folder(tmp_path / "run")
    )
    assert result["steps_skipped"] == len(bad)


OPTIMIZERS = sorted(file.stem for file in (conf_dir() / "optimizer").glob("*.yaml"))


@pytest.mark.parametrize("optimizer", [o for o in OPTIMIZERS if o not in ("lbfgs", "sam")])
def test_every_optimizer_passes_over_a_skipped_step(optimizer: str, tmp_path: Path) -> None:
    config = plain_config(Composer("train").compose([f"optimizer={optimizer}", "data=digits"]))
    module = Classifier(
        _network((4,), "gradient"),
        num_classes=10,
        mean=[0.5],
        std=[0.5],
        optimizer=build_job(config).optimizer,
    )
    seen = _Weights()
    data = small_job().data
    guard = NonFiniteGuard(new_folder(tmp_path / "run"), "skip", data.members)
    trainer = L.Trainer(
        max_steps=5, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[guard, seen],
    )  # fmt: skip
    trainer.fit(module, data.train_dataloader(), data.val_dataloader())
    assert guard.skipped == 1
    weight = [after["0.weight"] for after in seen.after]
    assert torch.equal(weight[3], weight[2])
    assert not torch.equal(weight[2], weight[1])
    assert not torch.equal(weight[4], weight[3])


def test_lower_lr_goes_back_and_halves_the_rate_until_it_learns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = new_folder(tmp_path / "run")
    steps = (STEPS + 3, STEPS + 5)
    passes = Fuse(steps, "loss")  # one for all attempts: each breaks once

    def network(images: Any) -> nn.Module:
        made = _network((), "none")
        made[3] = passes
        return made

    result = run_training(_job("none", steps=(), network=network, on_nan="lower_lr"), folder)
    assert result["lr_factor"] == 0.25
    assert result["steps"] == 3 * STEPS
    assert "Going back to step 6 with 0.5 of the rate" in caplog.text
    assert "Going back to step 0 with 0.25 of the rate" in caplog.text  # last.ckpt did not help
    steps_logged = [r["step"] for r in folder.read_metrics() if r["name"] == "train/loss_step"]
    assert steps_logged == list(range(3 * STEPS))
    assert read_checkpoint(folder.last_checkpoint)["lr_factor"] == 0.25
    verdicts = [(v["trouble"], v["since"], v["until"]) for v in result["health"]]
    assert verdicts == [("exploding", s, s) for s in (9, 8)]  # none is forgotten
    assert "exploding: the loss is nan" in caplog.text


def test_lower_lr_gives_up_where_no_rate_helps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = new_folder(tmp_path / "run")
    job = _job("loss", steps=(2,), on_nan="lower_lr")
    with pytest.raises(NonFiniteError, match=r"step 2 .*the loss is nan"):
        run_training(job, folder)
    assert folder.read_status()["state"] == "failed"
    assert caplog.text.count("Going back to step 0") == 10
    assert "Going back to step 0 with 0.000976562 of the rate" in caplog.text


def test_going_back_to_the_start_trains_on_every_batch(tmp_path: Path) -> None:
    """An attempt from the middle of the first epoch leaves nothing to the one from the start."""
    folder = new_folder(tmp_path / "run")
    fuse = Fuse((5, 6), "loss")

    def network(images: Any) -> nn.Module:
        made = _network((), "none")
        made[3] = fuse
        return made

    job = _job("none", steps=(), network=network, on_nan="lower_lr", checkpoint_steps=4)
    result = run_training(job, folder)
    assert (result["lr_factor"], result["steps"]) == (0.25, 3 * STEPS)
    logged = [r["step"] for r in folder.read_metrics() if r["name"] == "train/loss_step"]
    assert logged == list(range(3 * STEPS))


@pytest.mark.parametrize("policy", ["stop", "lower_lr"])
def test_a_signal_at_the_very_step_still_stops(policy: str, tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    send = _Signal("on_before_backward", STEPS + 2, signal.SIGTERM)
    with pytest.raises(TrainingStopped):
        run_training(_job("loss", send, on_nan=policy), folder)
    assert folder.read_status()["state"] == "stopped"


def test_a_skipped_step_of_several_batches_leaves_running_statistics_alone(tmp_path: Path) -> None:
    """What comes first in the step is NaN, and the others see the statistics that it left."""
    folder = new_folder(tmp_path / "run")
    seen = _Weights()
    fuse = Fuse((4,), "loss")

    def network(images: Any) -> nn.Module:
        return nn.Sequential(fuse, *_network((), "none"))

    trainer = {"max_epochs": 1, "accelerator": "cpu", "accumulate_grad_batches": 3}
    job = small_job(
        network=network,
        backward="native",
        on_nan="skip",
        trainer=trainer,
        callbacks=lambda: [seen],
        diagnostics=DiagnosticsSettings("basic", 4),
    )
    result = run_training(job, folder)
    assert result["steps_skipped"] == 1
    first, last = seen.after[2], seen.after[5]
    assert all(torch.equal(first[key], last[key]) for key in first)
    assert last["2.running_mean"].isfinite().all()


def test_steps_that_are_looked_at_together_are_told_apart(tmp_path: Path) -> None:
    """As on a GPU, where each look would make the processor wait."""
    folder = new_folder(tmp_path / "run")
    data = small_job().data
    guard = NonFiniteGuard(folder, "stop", data.members, every=5)
    module = Classifier(
        _network((3,), "gradient"),
        num_classes=10,
        mean=[0.5],
        std=[0.5],
        optimizer=lambda network: torch.optim.SGD(network.parameters(), lr=0.1),
    )
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[guard],
    )  # fmt: skip
    with pytest.raises(NonFiniteError, match=r"step 3 \(epoch 1, batch 3\): the gradient .* in 1,"):
        trainer.fit(module, data.train_dataloader(), data.val_dataloader())
    assert trainer.global_step == 4  # the fifth was about to be made
    assert torch.equal(
        torch.tensor(json.loads(RunFolder(folder.path).non_finite.read_text())["images"]),
        data.members(0, 2),
    )


@pytest.mark.parametrize("device", ["cpu", "elsewhere"])
def test_gradients_are_finite_though_their_sum_is_not(device: str, monkeypatch: Any) -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    network[0].weight.grad = torch.full((2, 2), 3e38)
    network[1].weight.grad = torch.tensor([[math.inf, -math.inf]])
    if device != "cpu":  # as on a device that is waited for
        monkeypatch.setattr(Tensor, "sum", None)
        monkeypatch.setattr(Tensor, "device", torch.device("cuda"))
    flags = finite_flags([torch.tensor(1.0), torch.tensor(math.nan)], network, gradients=True)
    assert flags.tolist() == [False, True, False]


def test_what_is_surely_finite_needs_no_flags(monkeypatch: Any) -> None:
    one = [torch.tensor(1.0)]
    assert surely_finite(one, [])  # of weights that have none yet
    large = torch.full((2, 2), 3e38)  # whose sum is not finite
    assert surely_finite(one, [large])
    assert not surely_finite(one, [large, torch.tensor([[1.0, math.nan]])])
    assert not surely_finite([*one, torch.tensor(math.inf)], [])
    assert not surely_finite(one, [torch.ones(1).expand(1, 2)])  # others have to say
    monkeypatch.setattr("cnnexp.training.non_finite.has_kernels", lambda: False)
    assert not surely_finite(one, [])
