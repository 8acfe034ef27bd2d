"""L1, L2 and the elastic net, alone and in a training."""

from __future__ import annotations

from functools import partial

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cnnexp.optim import param_groups
from cnnexp.regularization import L1, L2, ElasticNet, Regularizer, l1_penalty
from cnnexp.training import Classifier

PENALTIES: list[Regularizer] = [L1(0.03), L2(0.5), ElasticNet(0.2, 0.3)]


def _classifier(*penalties: Regularizer, lr: float = 0.1) -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 2))

    def sgd(network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(param_groups(network), lr=lr)

    made = Classifier(
        network, num_classes=2, mean=[0.5], std=[0.5], optimizer=sgd, regularizers=penalties
    )
    return made.double()


def _images(n: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 5, 5, generator=generator, dtype=torch.float64), torch.arange(n) % 2


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: p.name)
def test_gradients_through_the_module_are_those_of_finite_differences(
    penalty: Regularizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _classifier(penalty)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    batch = _images()
    module.training_step(batch, 0).backward()
    for parameter in module.network.parameters():
        assert parameter.grad is not None
        flat = parameter.data.view(-1)
        for i in range(0, flat.numel(), 5):
            value, losses = flat[i].item(), []
            for step in (1e-6, -1e-6):
                flat[i] = value + step
                losses.append(module.training_step(batch, 0).item())
            flat[i] = value
            found = parameter.grad.view(-1)[i].item()
            assert found == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5, abs=1e-8)


def _trained(penalty: Regularizer | None, batch_size: int, accumulated: int) -> dict[str, Tensor]:
    module = _classifier(*([penalty] if penalty else []))
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        accumulate_grad_batches=accumulated,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(TensorDataset(*_images()), batch_size)
    trainer.fit(module, loader, loader)
    return {name: p.detach().clone() for name, p in module.network.named_parameters()}


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*")
@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: p.name)
def test_accumulated_batches_are_penalised_as_one(penalty: Regularizer) -> None:
    torch.testing.assert_close(_trained(penalty, 8, 1), _trained(penalty, 2, 4))
    without = _trained(None, 8, 1)
    with_penalty = _trained(penalty, 8, 1)
    assert not torch.allclose(with_penalty["0.weight"], without["0.weight"])


def test_l1_is_the_sum_of_magnitudes_and_its_gradient_the_sign() -> None:
    weight = torch.tensor([[3.0, -4.0, 0.0]], requires_grad=True)
    penalty = l1_penalty([weight])
    assert penalty.item() == 7.0
    assert torch.autograd.grad(penalty, weight)[0].tolist() == [[1.0, -1.0, 0.0]]
    assert l1_penalty([]).item() == 0.0


def test_the_elastic_net_lies_between_l1_and_l2() -> None:
    network = nn.Linear(3, 2)
    one, two = L1(0.2).penalty(network), L2(0.2).penalty(network)
    torch.testing.assert_close(ElasticNet(0.2, 1.0).penalty(network), one)
    torch.testing.assert_close(ElasticNet(0.2, 0.0).penalty(network), two)
    torch.testing.assert_close(ElasticNet(0.2, 0.25).penalty(network), 0.25 * one + 0.75 * two)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(L1, -1), r"regularization\.l1\.strength must be at least 0, but got -1"),
        (partial(ElasticNet, -1), r"regularization\.elastic_net\.strength must be at least 0"),
        (partial(ElasticNet, 1, 2), r"elastic_net\.l1_ratio must be between 0 and 1, but got 2"),
    ],
)
def test_values_out_of_range_are_refused(make: partial[Regularizer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
