"""Random numbers for a batch that several processes share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Draws", "Share"]


@dataclass(frozen=True)
class Share:
    """Which images of a batch one process gets.

    Attributes:
        start: The first of them, counted from 0.
        images: How many; never none, as layers need one: a process beyond a small batch gets its first.
        own: The same, but 0 for such a process.
        of: Images of the whole batch.
    """

    start: int
    images: int
    own: int
    of: int

    @classmethod
    def of_rank(cls, images: int, rank: int, ranks: int) -> Share:
        """That of ``rank`` (from 0) of so many ``images`` ≥ 1, cut into parts as equal as can be."""
        least, more = divmod(images, ranks)
        own = least + (rank < more)
        if own == 0:
            return cls(0, 1, 0, images)
        return cls(rank * least + min(rank, more), own, own, images)

    def weight(self, ranks: int) -> float:
        """What this process's mean counts in the mean over ``ranks`` processes: 1 for equal parts."""
        return self.own * ranks / self.of


class Draws:
    """Random numbers for each image of a batch, on the CPU.

    The numbers for the whole batch are drawn and those of the share are given, so that what happens to
    an image does not depend on how many processes share the batch.

    Args:
        generator: Where they come from.
        images: Images of the whole batch.
        share: Which of them are here; None for all.
    """

    def __init__(self, generator: torch.Generator, images: int, share: Share | None = None) -> None:
        self.generator, self._images = generator, images
        self._start, self._here = (share.start, share.images) if share else (0, images)

    def uniform(
        self, *after: int, before: Sequence[int] = (), dtype: torch.dtype | None = None
    ) -> Tensor:
        r"""(\*before, n, \*after) in [0, 1), where n is the number of images here."""
        shape = (*before, self._images, *after)
        return self._own(torch.rand(shape, generator=self.generator, dtype=dtype), len(before))

    def integers(self, below: int, *after: int, before: Sequence[int] = ()) -> Tensor:
        r"""(\*before, n, \*after) in 0 … ``below`` − 1, int64."""
        shape = (*before, self._images, *after)
        return self._own(torch.randint(below, shape, generator=self.generator), len(before))

    def partners(self) -> Tensor:
        """(n,) For each image here, one of the whole batch: a random order's part, int64."""
        return self._own(torch.randperm(self._images, generator=self.generator), 0)

    def _own(self, numbers: Tensor, dim: int) -> Tensor:
        return numbers.narrow(dim, self._start, self._here)
