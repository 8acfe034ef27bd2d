"""Networks as others write them, so that ``forward`` calls activations and poolings."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class MNISTExample(nn.Module):
    """1×28×28 → 10 classes: two convolutions, one max-pooling, dropout, two linear layers.

    Source: github.com/pytorch/examples, folder mnist.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, 1, 28, 28) to logits (N, 10)."""
        x = F.relu(self.conv2(F.relu(self.conv1(input))))
        x = self.dropout1(F.max_pool2d(x, 2)).flatten(1)
        return self.fc2(self.dropout2(F.relu(self.fc1(x))))


class CIFARTutorial(nn.Module):
    """3×32×32 → 10 classes: a small network with one max-pooling layer that is called twice.

    Source: PyTorch's tutorial "Training a classifier".
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.pool = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, 3, 32, 32) to logits (N, 10)."""
        x = self.pool(F.relu(self.conv1(input)))
        x = self.pool(F.relu(self.conv2(x))).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class _Block(nn.Module):
    """Two convolutions of 3×3 and a shortcut."""

    def __init__(self, inside: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != channels:
            narrow = nn.Conv2d(inside, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(narrow, nn.BatchNorm2d(channels))

    def forward(self, input: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(input)))
        x = self.bn2(self.conv2(x))
        x += self.shortcut(input)
        return F.relu(x)


class CIFARResNet18(nn.Module):
    """3×32×32 → 10 classes: ResNet-18 as it is written for CIFAR-10, with 3×3 at first and no pooling there.

    Source: He et al., "Deep Residual Learning for Image Recognition" (2016), table 1, in the style of
    github.com/kuangliu/pytorch-cifar.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        widths = (64, 128, 256, 512)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    _Block(inside, width, 1 if width == 64 else 2), _Block(width, width, 1)
                )
                for inside, width in zip((64, *widths), widths, strict=False)
            )
        )
        self.linear = nn.Linear(512, 10)

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, 3, H, W), H and W of any size, to logits (N, 10)."""
        x = self.stages(F.relu(self.bn1(self.conv1(input))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
