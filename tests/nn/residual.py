"""Networks with sums, products and parts, as people write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """As torchvision writes it: the sum in place, one ReLU for all."""

    def __init__(self, channels: int, more: int = 0, inplace: bool = True) -> None:
        super().__init__()
        wide = channels + more
        self.conv1, self.bn1 = nn.Conv2d(channels, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide)
        self.conv2, self.bn2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide)
        self.relu = nn.ReLU(inplace)
        self.down = (
            nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide))
            if more
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.down is None else self.down(x)
        return self.relu(out)


class InOneLine(Block):
    """As tutorials write it, with an empty sequence for a shortcut."""

    def __init__(self, channels: int, more: int = 0) -> None:
        super().__init__(channels, more, inplace=False)
        self.shortcut = self.down or nn.Sequential()
        self.act = nn.ReLU()
        del self.down

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class Added(Block):
    """By a function, the shortcut first."""

    def forward(self, x: Tensor) -> Tensor:
        inside = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(torch.add(x if self.down is None else self.down(x), inside))


class Functions(InOneLine):
    """As a well-known collection for CIFAR-10 writes it."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class Methods(Functions):
    """By methods, the shortcut first, the ReLU in place."""

    def forward(self, x: Tensor) -> Tensor:
        inside = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (self.shortcut(x) + inside).relu_()


class AddedByFunction(Functions):
    """By a function, and all activations in place."""

    def forward(self, x: Tensor) -> Tensor:
        inside = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(torch.add(inside, self.shortcut(x)), inplace=True)


def residual(kind: Callable[..., nn.Module], blocks: int = 3) -> nn.Module:
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
    inside = [kind(4) for _ in range(blocks - 1)]
    return nn.Sequential(*stem, *inside, kind(4, 2), kind(6), nn.Conv2d(6, 2, 1))


class Squeezed(nn.Module):
    """As squeeze-and-excitation: a convolution reads a product."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU()
        self.mean, self.gate, self.last = (
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        inside = self.act(self.bn(self.conv(x)))
        return self.last(self.gate(self.mean(inside)).sigmoid() * inside)


class Parted(nn.Module):
    """As ShuffleNet: a convolution reads half of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.branch = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.bn(self.first(x)).sin().chunk(2, 1)
        return self.last(torch.cat([one, self.branch(other)], 1))


def _seeded(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


RESIDUAL = {
    "in place": Block,
    "in one line": InOneLine,
    "added": Added,
    "functions": Functions,
    "methods": Methods,
    "functions, added": AddedByFunction,
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{name: (lambda kind=kind: residual(kind)) for name, kind in RESIDUAL.items()},
    "squeezed": lambda: _seeded(Squeezed),
    "parted": lambda: _seeded(Parted),
}
