"""The loss of each step, kept where it was computed until somebody asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["StepLosses"]


class StepLosses:
    """Gather the losses of batches into those of steps.

    Attributes:
        done: Of each step since :meth:`clear`, scalars on the device.
        images: Of the step that is under way.
    """

    def __init__(self) -> None:
        self.done: list[Tensor] = []
        self._batches: list[tuple[Tensor, int]] = []

    @property
    def images(self) -> int:
        """How many the batches of the present step have so far."""
        return sum(size for _, size in self._batches)

    def add(self, loss: Tensor, images: int) -> None:
        """Take the mean loss of a batch of ``images`` images in."""
        self._batches.append((loss.detach(), images))

    def close(self) -> None:
        """The step is over; nothing happens if none is under way."""
        if len(self._batches) == 1:
            self.done.append(self._batches[0][0])
        elif self._batches:
            images = self.images
            self.done.append(torch.stack([loss * (n / images) for loss, n in self._batches]).sum())
        self._batches = []

    def clear(self) -> None:
        """Forget the steps that are over."""
        self.done = []

    def to(self, device: torch.device) -> None:
        """Bring what was kept to ``device``."""
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.done = [loss.to(device, dtype) for loss in self.done]
        self._batches = [(loss.to(device, dtype), n) for loss, n in self._batches]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """(steps,) losses of steps, (batches,) losses of batches of the present one."""
        batches = [loss for loss, _ in self._batches]
        return _stack(self.done), _stack(batches)

    def sizes(self) -> list[int]:
        """Images of the batches of the present step."""
        return [n for _, n in self._batches]

    def load(self, state: Mapping[str, Any]) -> None:
        """Take ``steps``, ``batches`` and ``sizes``, plain lists, for what was kept."""
        self.done = [torch.tensor(loss, dtype=torch.float64) for loss in state["steps"]]
        losses = [torch.tensor(loss, dtype=torch.float64) for loss in state["batches"]]
        self._batches = list(zip(losses, state["sizes"], strict=True))


def _stack(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses) if losses else torch.empty(0)
