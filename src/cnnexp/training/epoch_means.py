"""Means over an epoch that a checkpoint in its middle can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cnnexp.training.ranks import ALONE, Ranks


class EpochMeans:
    """Means by name over all images of an epoch, summed in float64 where the numbers come from.

    torchmetrics and Lightning keep theirs to themselves: a training resumed in the middle of an epoch
    would report the mean of its second part.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._images = 0

    def add(self, images: int, **means: Tensor) -> None:
        """Take in the mean of each of ``means`` over a batch of so many ``images``."""
        self._images += images
        for name, mean in means.items():
            wide = mean.detach().double() if mean.device.type != "mps" else mean.detach()
            self._sums[name] = self._sums.get(name, torch.zeros_like(wide)) + wide * images

    def reset(self) -> None:
        """Begin an epoch."""
        self._sums, self._images = {}, 0

    def means(self, ranks: Ranks = ALONE) -> dict[str, Tensor]:
        """The mean of each over the images so far, of all ``ranks``."""
        images = self._images
        if ranks.count > 1:
            images = sum(ranks.gather(images))
        return {name: (ranks.total(total) / images).float() for name, total in self._sums.items()}

    def state_dict(self) -> dict[str, float]:
        """The sums in plain numbers."""
        return {"images": self._images, **{n: float(total) for n, total in self._sums.items()}}

    def load_state_dict(self, states: Sequence[Mapping[str, float]], device: torch.device) -> None:
        """Restore what :meth:`state_dict` gave; the sum of several, which were other processes'."""
        state = {name: sum(each[name] for each in states) for name in states[0]}
        kind = torch.float64 if device.type != "mps" else torch.float32
        self._images = int(state["images"])
        self._sums = {
            name: torch.tensor(total, dtype=kind, device=device)
            for name, total in state.items()
            if name != "images"
        }
