"""A range test trains by the rates of its ramp, whatever the optimiser, and keeps nothing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.config.hydra_settings import for_all
from cnnexp.lr_range import LossCurve, Ramp, RangeTestError, run_range_test, suggest
from cnnexp.lr_range.range_test import _RisingRate
from cnnexp.training import TrainingJob
from tests.conftest import ROOT

SMALL = (
    *("data=digits", "data.train_size=128", "data.val_size=10", "data.batch_size=32", "logger=csv"),
    *("model=tanh_cnn", "backward=native", "accelerator=cpu", "diagnostics=off"),
)
OPTIMIZERS = sorted(file.stem for file in (ROOT / "conf" / "optimizer").glob("*.yaml"))


def _job(*settings: str) -> TrainingJob:
    config = Composer("train").compose([*for_all(), *SMALL, *settings])
    return build_job(plain_config(config))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_is_tested_and_keeps_its_ratios(
    name: str, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "lion":
        pytest.importorskip("pytorch_optimizer")
    if name == "schedule_free":
        pytest.importorskip("schedulefree")
    scaled = [] if name == "lbfgs" else ["+parameters.lr_scale.classifier=0.1"]
    seen: list[list[float]] = []
    before = _RisingRate.on_train_batch_start

    def look(self, trainer, *rest) -> None:
        before(self, trainer, *rest)
        (optimizer,) = trainer.optimizers
        seen.append([float(group["lr"]) for group in optimizer.param_groups])
        assert not any(group.get("warmup_steps") for group in optimizer.param_groups)

    monkeypatch.setattr(_RisingRate, "on_train_batch_start", look)
    ramp = Ramp(1e-5, 1e-2, 20)
    curve = run_range_test(_job(f"optimizer={name}", *scaled), ramp)
    assert len(curve.rates) == 20
    assert curve.rates == pytest.approx([ramp.rate(step) for step in range(20)])
    firsts = list(dict.fromkeys(max(rates) for rates in seen))
    assert firsts == pytest.approx([ramp.rate(step) for step in range(20)])
    if scaled:
        assert all(min(rates) == pytest.approx(0.1 * max(rates)) for rates in seen)
    assert list(empty_folder.iterdir()) == []


def test_a_signal_ends_it_as_before(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: set[object] = set()
    start = _RisingRate.on_train_batch_start

    def look(self, *arguments) -> None:
        handlers.add(signal.getsignal(signal.SIGTERM))
        start(self, *arguments)

    monkeypatch.setattr(_RisingRate, "on_train_batch_start", look)
    run_range_test(_job("optimizer=sgd"), Ramp(1e-4, 1.0, 20))
    assert handlers == {signal.getsignal(signal.SIGTERM)}


def test_the_weights_move_by_the_rate(empty_folder: Path) -> None:
    """Two tests that differ in one rate differ from the loss after it on."""
    low = run_range_test(_job("optimizer=sgd"), Ramp(1e-4, 1.0, 20))
    again = run_range_test(_job("optimizer=sgd"), Ramp(1e-4, 1.0, 20))
    other = run_range_test(_job("optimizer=sgd"), Ramp(1e-3, 1.0, 20))
    assert low.losses == again.losses
    assert low.losses[0] != other.losses[0]


def test_the_first_loss_is_that_after_the_first_step(empty_folder: Path) -> None:
    """By hand: one step of SGD at the first rate, then the loss of the second batch."""
    job = _job("optimizer=sgd", "regularization=none")
    curve = run_range_test(job, Ramp(0.05, 1.0, 20))
    from lightning import seed_everything

    from cnnexp.training import make_classifier

    seed_everything(job.seed, verbose=False)
    classifier = make_classifier(job, job.data.images).train()
    batches = iter(job.data.train_dataloader())
    losses = []
    for _ in range(2):
        images, labels = job.data.on_after_batch_transfer(next(batches), 0)
        loss = torch.nn.functional.cross_entropy(classifier(images), labels)
        losses.append(float(loss.detach()))
        gradients = torch.autograd.grad(loss, list(classifier.network.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(classifier.network.parameters(), gradients, strict=True):
                weight -= 0.05 * gradient
    assert curve.losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_accumulated_batches_are_one_step(empty_folder: Path) -> None:
    job = _job("optimizer=sgd", "+trainer.accumulate_grad_batches=2")
    assert len(run_range_test(job, Ramp(1e-4, 1e-2, 20)).rates) == 20


def test_it_stops_where_the_loss_diverges(empty_folder: Path) -> None:
    curve = run_range_test(_job("optimizer=sgd", "model=lenet5"), Ramp(1e-3, 1e9, 60))
    assert curve.diverged
    assert len(curve.rates) < 60
    assert isinstance(curve, LossCurve)
    assert suggest(curve) is not None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("optimizer=sgd", "optimizer.lr=0"), "SGD has no learning rate above 0"),
        (("accelerator=ddp_cpu", "accelerator.devices=2"), "the range test is of one process"),
    ],
)
def test_what_cannot_be_tested(settings: tuple[str, ...], said: str, empty_folder: Path) -> None:
    with pytest.raises(RangeTestError, match=said):
        run_range_test(_job(*settings), Ramp())


def test_private_images_are_not_tried_on(empty_folder: Path) -> None:
    pytest.importorskip("dp_accounting")
    with pytest.raises(RangeTestError, match="for which no account pays"):
        run_range_test(_job("privacy=dp_sgd"), Ramp())
