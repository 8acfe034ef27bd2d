"""The loss of each step, kept on its device until it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class StepLosses:
    """Combine the losses of batches into those of steps.

    Attributes:
        done: The loss of each step since :meth:`clear`, scalars on the device.
        images: How many images the step under way has had so far.
    """

    def __init__(self) -> None:
        self.done: list[Tensor] = []
        self._batches: list[tuple[Tensor, int]] = []

    @property
    def images(self) -> int:
        """The number of images in the batches of the present step so far."""
        return sum(size for _, size in self._batches)

    def add(self, loss: Tensor, images: int) -> None:
        """Add the mean loss of a batch of ``images`` images."""
        self._batches.append((loss.detach(), images))

    def close(self) -> None:
        """Finish the present step; do nothing if none is under way."""
        if len(self._batches) == 1:
            self.done.append(self._batches[0][0])
        elif self._batches:
            images = self.images
            self.done.append(torch.stack([loss * (n / images) for loss, n in self._batches]).sum())
        self._batches = []

    def clear(self) -> None:
        """Forget the finished steps."""
        self.done = []

    def to(self, device: torch.device) -> None:
        """Move the losses to ``device``."""
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.done = [loss.to(device, dtype) for loss in self.done]
        self._batches = [(loss.to(device, dtype), n) for loss, n in self._batches]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """The losses of the finished steps (steps,) and of the batches of the present step (batches,)."""
        batches = [loss for loss, _ in self._batches]
        return _stack(self.done), _stack(batches)

    def sizes(self) -> list[int]:
        """The number of images in each batch of the present step."""
        return [n for _, n in self._batches]

    def load(self, state: Mapping[str, Any]) -> None:
        """Replace the losses by ``steps``, ``batches`` and ``sizes`` of ``state``, plain lists."""
        self.done = [torch.tensor(loss, dtype=torch.float64) for loss in state["steps"]]
        losses = [torch.tensor(loss, dtype=torch.float64) for loss in state["batches"]]
        self._batches = list(zip(losses, state["sizes"], strict=True))


def _stack(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses) if losses else torch.empty(0)
