"""Networks as PyTorch's example and tutorial write them: ``forward`` calls activations and poolings."""

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
