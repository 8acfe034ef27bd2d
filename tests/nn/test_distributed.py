"""Our layers under DistributedDataParallel: real processes that talk over gloo."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cnnexp.nn import ConvReLUPool, CrossEntropyLoss, replace_layers

WORLD = 2

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="needs gloo"
)


def _network(algorithm: str) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    network = network.to(memory_format=torch.channels_last)
    if algorithm != "torch":
        replace_layers(network, algorithm)
        assert isinstance(network.get_submodule("0"), ConvReLUPool) == (algorithm == "fused")
    return network


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 1, 8, 8, generator=generator), torch.arange(8)


def _work(rank: int, folder: str, algorithm: str) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", WORLD)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    network = DistributedDataParallel(_network(algorithm))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    images, targets = (t.chunk(WORLD)[rank] for t in _batch())
    loss = CrossEntropyLoss(algorithm="native" if algorithm == "torch" else "direct")
    for _ in range(3):
        optimizer.zero_grad()
        loss(network(images), targets).backward()
        optimizer.step()
    torch.save(network.module.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _trained(folder: Path, algorithm: str) -> list[dict[str, Tensor]]:
    folder.mkdir()
    arguments = str(folder), algorithm
    torch.multiprocessing.start_processes(_work, arguments, nprocs=WORLD, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("algorithm", ["direct", "fused"])
def test_ranks_agree_to_the_bit_and_with_torch_on_the_whole_batch(
    tmp_path: Path, algorithm: str
) -> None:
    ours = _trained(tmp_path / "ours", algorithm)
    for name, value in ours[0].items():
        assert torch.equal(value, ours[1][name]), name
    network = _network("torch")
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    images, targets = _batch()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), targets).backward()
        optimizer.step()
    expected = network.state_dict()
    assert {k: v.shape for k, v in expected.items()} == {k: v.shape for k, v in ours[0].items()}
    torch.testing.assert_close(ours[0], dict(expected), rtol=1e-4, atol=1e-5)
