"""Random numbers for a batch that several ranks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchSlice:
    """The batch slice of one rank: which images of a batch this process gets.

    Attributes:
        start: The slice's first image, counted from 0.
        images: How many images it has; at least one, as layers need one: a rank beyond a small batch gets
            the batch's first image; none of an empty batch.
        own: The same number, but 0 for such a rank.
        of: How many images the whole batch has.
    """

    start: int
    images: int
    own: int
    of: int

    @classmethod
    def of_rank(cls, images: int, rank: int, ranks: int) -> BatchSlice:
        """The slice of ``rank`` (from 0) when ``images`` are cut into ``ranks`` parts as equal as
        possible; that of an empty batch is empty.
        """
        if images == 0:
            return cls(0, 0, 0, 0)
        least, more = divmod(images, ranks)
        own = least + (rank < more)
        if own == 0:
            return cls(0, 1, 0, images)
        return cls(rank * least + min(rank, more), own, own, images)

    def times(self, copies: int) -> BatchSlice:
        """The slice of a batch in which each image is followed by its ``copies``, itself among them."""
        return BatchSlice(*(copies * each for each in (self.start, self.images, self.own, self.of)))

    def weight(self, ranks: int) -> float:
        """The weight of this rank's mean in the mean over ``ranks`` ranks: 1 if all slices are
        equal, as those of an empty batch are.
        """
        return self.own * ranks / self.of if self.of else 1.0


class Draws:
    """Random numbers for each image of a batch, on the CPU.

    Numbers are drawn for the whole batch, and those of the batch slice are returned, so that what happens
    to an image does not depend on how many ranks share the batch.

    Args:
        generator: The generator that they are drawn from.
        images: How many images the whole batch has.
        share: The slice whose images are here; None for the whole batch.
        epoch: The epoch that the batch is of, from 0.
    """

    def __init__(
        self,
        generator: torch.Generator,
        images: int,
        share: BatchSlice | None = None,
        *,
        epoch: int = 0,
    ) -> None:
        self.generator, self._images, self.epoch = generator, images, epoch
        self._start, self._here = (share.start, share.images) if share else (0, images)

    def uniform(
        self, *after: int, before: Sequence[int] = (), dtype: torch.dtype | None = None
    ) -> Tensor:
        r"""Uniform numbers in [0, 1) of shape (\*before, n, \*after), n being the number of images
        here.
        """
        shape = (*before, self._images, *after)
        return self._own(torch.rand(shape, generator=self.generator, dtype=dtype), len(before))

    def integers(self, below: int, *after: int, before: Sequence[int] = ()) -> Tensor:
        r"""Uniform integers in 0 … ``below`` − 1 of shape (\*before, n, \*after), int64."""
        shape = (*before, self._images, *after)
        return self._own(torch.randint(below, shape, generator=self.generator), len(before))

    def partners(self) -> Tensor:
        """A partner in the whole batch for each image here, from one random permutation: (n,)
        int64.
        """
        return self._own(torch.randperm(self._images, generator=self.generator), 0)

    def _own(self, numbers: Tensor, dim: int) -> Tensor:
        return numbers.narrow(dim, self._start, self._here)
