"""Means over an epoch that a checkpoint in its middle can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cnnexp.training.ranks import ALONE, Ranks


class EpochMeans:
    """Means by name over all images of an epoch, summed in float64: on their device, or of a CPU in Python.

    torchmetrics and Lightning keep theirs to themselves: a training resumed in the middle of an epoch
    would report the mean of its second part.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._images = 0

    def add(self, images: int, **means: Tensor) -> None:
        """Take in the mean of each of ``means`` over a batch of so many ``images``."""
        self._images += images
        for name, mean in means.items():
            if mean.device.type == "cpu":  # where nothing waits for it
                wide = float(mean.detach())
            else:
                wide = mean.detach().double() if mean.device.type != "mps" else mean.detach()
            self._sums[name] = self._sums.get(name, 0.0) + wide * images

    def reset(self) -> None:
        """Begin an epoch."""
        self._sums, self._images = {}, 0

    def means(self, ranks: Ranks = ALONE) -> dict[str, Tensor]:
        """The mean of each over the images so far, of all ``ranks``."""
        images = self._images
        if ranks.count > 1:
            images = sum(ranks.gather(images))
        totals = {name: _tensor(total) for name, total in self._sums.items()}
        return {name: (ranks.total(total) / images).float() for name, total in totals.items()}

    def state_dict(self) -> dict[str, float]:
        """The sums in plain numbers."""
        return {"images": self._images, **{n: float(total) for n, total in self._sums.items()}}

    def load_state_dict(self, states: Sequence[Mapping[str, float]]) -> None:
        """Restore what :meth:`state_dict` gave; the sum of several, which were other processes'."""
        state = {name: sum(each[name] for each in states) for name in states[0]}
        self._images = int(state.pop("images"))
        self._sums = dict(state)


def _tensor(total: Tensor | float) -> Tensor:
    return total if isinstance(total, Tensor) else torch.tensor(total, dtype=torch.float64)
