"""What the classifier does around a step: full batches, many passes, constraints, clipping, targets."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cnnexp.optim import LBFGS, SAM, GradientDescent, plateau
from cnnexp.regularization import L2, Clip, LabelSmoothing, MaxNorm, MixUp, RandomShift
from cnnexp.training import Classifier

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*"
)


def _images(n: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 5, 5, generator=generator, dtype=torch.float64), torch.arange(n) % 3


def _classifier(optimizer: Any, **options: Any) -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3))
    made = Classifier(
        network,
        num_classes=3,
        mean=[0.5],
        std=[0.5],
        optimizer=lambda network: optimizer(list(network.parameters())),
        **options,
    )
    return made.double()


def _fit(module: Classifier, epochs: int = 3, batch_size: int = 8, **options: Any) -> L.Trainer:
    loader = DataLoader(TensorDataset(*_images()), batch_size)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, loader, loader)
    return trainer


def _values(module: Classifier) -> list[Tensor]:
    return [p.detach().clone() for p in module.network.parameters()]


def test_gradient_descent_steps_by_the_gradient_of_all_images() -> None:
    """Batches of 8, 8 and 4: those of the last must not count for more."""
    module = _classifier(
        lambda p: GradientDescent(p, lr=0.3), images_per_step=20, regularizers=[L2(0.1)]
    )
    trainer = _fit(module, accumulate_grad_batches=3)
    assert trainer.global_step == 3

    twin = _classifier(lambda p: torch.optim.SGD(p, lr=0.3))
    images, labels = _images()
    optimizer: Any = twin.configure_optimizers()
    for _ in range(3):
        optimizer.zero_grad()
        (
            nn.functional.cross_entropy(twin(images), labels) + L2(0.1).penalty(twin.network)
        ).backward()
        optimizer.step()
    torch.testing.assert_close(_values(module), _values(twin))


@pytest.mark.parametrize("optimizer", [SAM, LBFGS])
def test_only_the_first_pass_of_a_step_is_logged(
    optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _classifier(optimizer)
    seen: list[int] = []
    add = module._means.add
    monkeypatch.setattr(module._means, "add", lambda n, **m: (seen.append(n), add(n, **m)))
    _fit(module, epochs=2)
    assert seen == [8, 8, 4] * 2


def test_constraints_hold_after_every_step() -> None:
    module = _classifier(lambda p: torch.optim.SGD(p, lr=5.0), regularizers=[MaxNorm(0.5)])
    _fit(module)
    for weight in (p for p in module.network.parameters() if p.dim() > 1):
        assert weight.detach().flatten(1).norm(dim=1).max() <= 0.5 + 1e-9


def test_adaptive_clipping_bounds_the_step() -> None:
    module = _classifier(lambda p: torch.optim.SGD(p, lr=1.0), regularizers=[Clip(adaptive=1e-3)])
    before = _values(module)
    _fit(module, epochs=1, batch_size=20)
    for old, new in zip(before, _values(module), strict=True):
        if old.dim() > 1:
            norms = (new - old).flatten(1).norm(dim=1) / old.flatten(1).norm(dim=1)
            assert 0 < norms.max() <= 1e-3 + 1e-9


def test_plateau_looks_at_the_monitored_metric() -> None:
    module = _classifier(
        lambda p: torch.optim.SGD(p, lr=0.0),  # so that nothing ever becomes better
        scheduler=lambda optimizer, steps: plateau(optimizer, steps, mode="min", patience=1),
        monitor="val/loss",
    )
    trainer = _fit(module, epochs=4)
    (config,) = trainer.lr_scheduler_configs
    assert config.scheduler.num_bad_epochs <= 1  # pyright: ignore[reportAttributeAccessIssue]
    assert config.scheduler.last_epoch == 4  # pyright: ignore[reportAttributeAccessIssue]


def test_smoothing_and_mixing_are_for_training_alone() -> None:
    module = _classifier(
        lambda p: torch.optim.SGD(p, lr=0.0), regularizers=[MixUp(1.0), LabelSmoothing(0.4)]
    )
    trainer = _fit(module, epochs=1, batch_size=20)
    images, labels = _images()
    plain = nn.functional.cross_entropy(module(images), labels).item()
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(plain)
    assert trainer.callback_metrics["train/loss"].item() != pytest.approx(plain, rel=1e-3)


def test_augmented_images_depend_on_seed_epoch_and_batch_alone() -> None:
    module = _classifier(torch.optim.SGD, regularizers=[RandomShift(1)], seed=5)
    batch = _images()
    one, _ = module.vary(*batch, batch_idx=3)
    torch.manual_seed(99)
    again, labels = module.vary(*batch, batch_idx=3)
    other, _ = module.vary(*batch, batch_idx=4)
    assert torch.equal(one, again)
    assert torch.equal(labels, batch[1])
    assert not torch.equal(one, other)
