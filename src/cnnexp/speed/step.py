"""Time training steps: forward, loss, backward and optimiser, with each backward and with torch's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnexp.models import LeNet5, SeedCNN
from cnnexp.nn import CrossEntropyLoss, choose_algorithms, pin_algorithms, replace_layers
from cnnexp.ops import AUTO, resolve_algorithm
from cnnexp.ops.layout import in_layout
from cnnexp.ops.timing import interleaved_times
from cnnexp.speed.memory import saved_bytes
from cnnexp.speed.result import Measured, spread

__all__ = ["MODELS", "bench_step"]

MODELS: dict[str, Callable[[], nn.Module]] = {"lenet5": LeNet5, "seed_cnn": SeedCNN}
BASELINES = ("torch NCHW", "torch channels_last", "torch.compile")


@dataclass
class _Way:
    network: nn.Module
    loss: nn.Module
    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.network.parameters(), 1e-3)

    def forward(self) -> Tensor:
        return self.loss(self.network(self.images), self.labels)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.forward().backward()
        self.optimizer.step()


def bench_step(
    model: str,
    batch_size: int,
    algorithms: Sequence[str],
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    rounds: int = 40,
    with_compile: bool = True,
) -> list[Measured]:
    """Time steps of ``model`` on random images: torch's ways first, then each of ``algorithms``.

    All start from the same weights and take turns, so that what disturbs the machine disturbs all.
    ``torch.compile`` gets the channels_last network.
    """
    torch.manual_seed(0)
    network = MODELS[model]()
    images = torch.rand(batch_size, 1, 28, 28, device=device, dtype=dtype)
    labels = torch.randint(10, (batch_size,), device=device)
    what = f"step {model}, batch {batch_size}, {str(dtype).removeprefix('torch.')}"

    def way(loss: nn.Module, layout: torch.memory_format, change: Callable[..., nn.Module]) -> _Way:
        own = copy.deepcopy(network).to(device, dtype).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        batch = in_layout(images, layout)
        return _Way(change(own, batch), loss, batch, labels)

    def plain(network: nn.Module, batch: Tensor) -> nn.Module:
        return network

    last = torch.channels_last
    ways = {
        "torch NCHW": way(nn.CrossEntropyLoss(), torch.contiguous_format, plain),
        "torch channels_last": way(nn.CrossEntropyLoss(), last, plain),
    }
    missing = []
    if with_compile:
        compiled = way(nn.CrossEntropyLoss(), last, lambda network, _: torch.compile(network))  # pyright: ignore[reportArgumentType]
        try:
            compiled.step()
            ways["torch.compile"] = compiled
        except Exception as error:  # no compiler on this machine
            reason = f"not measured: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
            missing.append(Measured(what, "torch.compile", note=reason))
    for name in algorithms:
        loss = CrossEntropyLoss(
            algorithm="direct" if name == AUTO else resolve_algorithm("cross_entropy", name)
        )
        ways[f"cnnexp {name}"] = way(
            loss, last, lambda net, batch, name=name: _ours(net, batch, name)
        )
    times = interleaved_times(
        {name: each.step for name, each in ways.items()}, device, rounds=rounds, warm_up=3
    )
    rows = []
    for name, each in ways.items():
        middle, low, high = spread(times[name])
        ratios = {other: middle / spread(times[other])[0] for other in BASELINES if other in ways}
        saved = saved_bytes(each.forward, each.network.parameters()) / 1e6
        rows.append(Measured(what, name, {"full": middle}, low, high, rounds, saved, ratios))
    return rows + missing


def _ours(network: nn.Module, batch: Tensor, algorithm: str) -> nn.Module:
    replace_layers(network, algorithm)
    if algorithm == AUTO:
        pin_algorithms(network, choose_algorithms(network, batch))
    return network
