"""EMA, SWA and schedule-free optimisers: what is validated, kept and tested is the average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cnnexp.training import Classifier
from cnnexp.training.callbacks import ExponentialAverage, StochasticWeightAverage, WeightAverage

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:.*LeafSpec.*",
    "ignore:Checkpoint directory .* exists and is not empty",
)
EPOCHS, BATCHES = 4, 3


class _Seen(Callback):
    """The weights after each step, and those that validations saw."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []
        self.validated: list[Tensor] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        self.steps.append(_weights(pl_module))

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any
    ) -> None:
        self.validated.append(_weights(pl_module))


def _weights(module: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.network.parameters()])


def _module(optimizer: Any = None) -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return Classifier(
        network,
        num_classes=2,
        mean=[0.5],
        std=[0.5],
        optimizer=optimizer or (lambda net: torch.optim.SGD(net.parameters(), lr=0.5)),
    )


def _fit(
    module: Classifier,
    folder: Path,
    *callbacks: Callback,
    epochs: int = EPOCHS,
    steps: int = -1,
    **options: Any,
) -> L.Trainer:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(8 * BATCHES, 1, 3, 3, generator=generator)
    loader = DataLoader(TensorDataset(images, (images.mean((1, 2, 3)) > 0.5).long()), 8)
    last = ModelCheckpoint(
        folder, "last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    trainer = L.Trainer(
        max_epochs=epochs,
        max_steps=steps,
        accelerator="cpu",
        num_sanity_val_steps=0,
        callbacks=[*callbacks, last],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, loader, **options)
    return trainer


def test_ema_is_the_average_that_its_formula_says(tmp_path: Path) -> None:
    seen = _Seen()
    _fit(_module(), tmp_path, seen, ExponentialAverage(0.5))
    average = seen.steps[0]
    for t, weights in enumerate(seen.steps[1:], start=1):
        decay = min(0.5, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * weights
        if (t + 1) % BATCHES == 0:
            torch.testing.assert_close(seen.validated[t + 1 - BATCHES], average)


@pytest.mark.parametrize("epochs", [-1, 9])
def test_swa_counts_the_epochs_of_so_many_steps(tmp_path: Path, epochs: int) -> None:
    """As trainer.max_steps says it: the last epoch is not whole, and its end counts, too."""
    seen = _Seen()
    steps = 3 * BATCHES + 1
    average = StochasticWeightAverage(0.5)
    _fit(_module(), tmp_path, seen, average, epochs=epochs, steps=steps)
    assert average.updates == 2  # the third epoch's end, and the fourth's after one step


def test_swa_is_the_mean_of_the_last_epochs_ends(tmp_path: Path) -> None:
    seen = _Seen()
    _fit(_module(), tmp_path, seen, StochasticWeightAverage(0.5))
    ends = seen.steps[BATCHES - 1 :: BATCHES]
    validated = seen.validated[::BATCHES]
    assert torch.equal(validated[1], ends[1])  # not begun
    torch.testing.assert_close(validated[2], ends[2])
    torch.testing.assert_close(validated[3], (ends[2] + ends[3]) / 2)


@pytest.mark.parametrize("average", [ExponentialAverage(0.9), StochasticWeightAverage(0.25)])
def test_training_goes_on_with_its_own_weights(tmp_path: Path, average: WeightAverage) -> None:
    plain, averaged = _Seen(), _Seen()
    _fit(_module(), tmp_path / "plain", plain)
    _fit(_module(), tmp_path / "averaged", averaged, average)
    for one, other in zip(plain.steps, averaged.steps, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", [ExponentialAverage, StochasticWeightAverage])
def test_a_checkpoint_holds_the_average_and_what_training_goes_on_with(
    tmp_path: Path, kind: Any
) -> None:
    seen, share = _Seen(), 0.5
    whole = _module()
    _fit(whole, tmp_path / "whole", seen, kind(share))
    checkpoint = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)
    kept = checkpoint["state_dict"]
    network = [kept[f"network.{n}"].flatten() for n, _ in whole.network.named_parameters()]
    torch.testing.assert_close(torch.cat(network), seen.validated[-1])

    _fit(_module(), tmp_path / "half", kind(share), epochs=2)
    resumed, rest = _module(), _Seen()
    half = tmp_path / "half" / "last.ckpt"
    _fit(resumed, tmp_path / "half", rest, kind(share), ckpt_path=half, weights_only=True)
    assert torch.equal(torch.stack(rest.steps), torch.stack(seen.steps[2 * BATCHES :]))
    if kind is ExponentialAverage:  # SWA counts epochs of one length of training
        assert torch.equal(rest.validated[-1], seen.validated[-1])


def test_schedule_free_is_validated_and_kept_in_its_averaged_weights(tmp_path: Path) -> None:
    schedulefree = pytest.importorskip("schedulefree")
    seen = _Seen()
    module = _module(lambda net: schedulefree.AdamWScheduleFree(net.parameters(), lr=0.1))
    trainer = _fit(module, tmp_path, seen)
    (optimizer,) = trainer.optimizers
    assert not torch.equal(seen.steps[-1], seen.validated[-1])
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    names = [f"network.{name}" for name, _ in module.network.named_parameters()]
    found = torch.cat([kept["state_dict"][name].flatten() for name in names])
    torch.testing.assert_close(found, seen.validated[-1])
    # what training continues with is in it to the bit, and the module now holds the weights given
    trained = torch.cat([kept["training_weights"][name].flatten() for name in names])
    assert torch.allclose(trained, seen.steps[-1])
    assert kept["optimizer_states"][0]["param_groups"][0]["train_mode"]
    assert not optimizer.param_groups[0]["train_mode"]
    torch.testing.assert_close(_weights(module), seen.validated[-1])


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"regularization\.ema\.decay must be between 0 and 1"):
        ExponentialAverage(1.0)
    with pytest.raises(ValueError, match=r"regularization\.swa\.start must be in \[0, 1\)"):
        StochasticWeightAverage(1.0)


def test_an_average_from_a_checkpoint_follows_the_network_to_its_device() -> None:
    """Checkpoints are read on the CPU; a network on another device is averaged there."""
    module = _module()
    average = ExponentialAverage(0.9)
    average.update(module)
    average.update(module.to("meta"))
    assert {each.device.type for each in average._average.values()} == {"meta"}
