"""Whole batches, in an order that depends on seed and epoch only."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Iterator
from itertools import islice
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cnnexp.data.draws import BatchSlice
from cnnexp.data.images import Samples, is_at_hand

__all__ = [
    "BatchOrder",
    "GatheredBatches",
    "batch_loader",
    "gathered_together",
    "loader_of",
    "seeded_generator",
]


def seeded_generator(*numbers: int) -> torch.Generator:
    """A CPU generator whose random numbers depend on all ``numbers`` (each ≥ 0) and on nothing
    else.
    """
    # torch's generator uses 32 bits of its seed only, so all numbers are mixed into 32 bits
    mixed = np.random.SeedSequence(numbers).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


class BatchOrder(Sampler[Tensor]):
    """Yield the indices of each batch; shuffled anew each epoch, but the same for the same seed.

    Args:
        size: Number of samples, ≥ 0.
        batch_size: Samples per batch, ≥ 1; the last batch may be smaller.
        seed: Seed of the shuffling; None keeps the order.
        epoch: The epoch whose order is yielded first.
        skip: Batches left out at the beginning of that epoch, because they have been trained on already.
        same: Yield in every epoch the order of epoch 0.
        rank, ranks: Which of how many processes that share each batch this one is; see :class:`BatchSlice`.
            Without a seed, where the order is kept, a rank beyond a small batch gets none of it.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int | None = None,
        *,
        epoch: int = 0,
        skip: int = 0,
        same: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.size, self.batch_size, self.seed, self._same = size, batch_size, seed, same
        self.epoch, self._skip_in, self._skip = epoch, epoch, skip
        self._rank, self._ranks = rank, ranks

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is yielded next; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        skip = self._skip if self.epoch == self._skip_in else 0
        for batch in self._order().split(self.batch_size)[skip:]:
            share = BatchSlice.of_rank(len(batch), self._rank, self._ranks)
            images = share.own if self.seed is None else share.images
            yield batch[share.start : share.start + images]

    def batch(self, number: int) -> Tensor:
        """The indices of the whole batch ``number`` of the epoch, counted from 0, whether or not it
        is skipped.
        """
        return self._order().split(self.batch_size)[number]

    def _order(self) -> Tensor:
        if self.seed is None:
            return torch.arange(self.size)
        epoch = 0 if self._same else self.epoch
        return torch.randperm(self.size, generator=seeded_generator(self.seed, epoch))


class GatheredBatches(Dataset[tuple[Tensor, Tensor]]):
    """A data set that is indexed by a whole batch at once: one gather, no Python per image."""

    def __init__(self, data: Samples) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) uint8 and labels (B,) int64 for (B,) indices."""
        return self.data.batch(indices)


def batch_loader(
    data: Samples,
    batch_size: int,
    *,
    seed: int | None = None,
    epoch: int = 0,
    skip: int = 0,
    same: bool = False,
    num_workers: int = 0,
    pin_memory: bool = False,
    rank: int = 0,
    ranks: int = 1,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """A DataLoader over ``data`` that yields whole batches in the :class:`BatchOrder` of ``seed``.

    Args:
        data: The images and their labels.
        batch_size: Images per batch, ≥ 1.
        seed: Seed of the shuffling; None keeps the order.
        epoch, skip, same: Where to begin, and whether to shuffle anew each epoch, see :class:`BatchOrder`.
        num_workers: Processes that load batches; with 0 the training process loads them. The batches
            do not depend on this number.
        pin_memory: Keep batches in page-locked memory (for a GPU).
        rank, ranks: Which slice of each batch to load, see :class:`BatchOrder`.
    """
    order = BatchOrder(
        len(data), batch_size, seed, epoch=epoch, skip=skip, same=same, rank=rank, ranks=ranks
    )
    return loader_of(data, order, num_workers=num_workers, pin_memory=pin_memory)


def loader_of(
    data: Samples, batches: Sampler[Tensor], *, num_workers: int = 0, pin_memory: bool = False
) -> DataLoader[tuple[Tensor, Tensor]]:
    """A DataLoader over ``data`` that yields the batches whose indices ``batches`` yields.

    Args:
        data: The images and their labels.
        batches: Yields (B,) indices for each batch, in this process.
        num_workers, pin_memory: See :func:`batch_loader`.
    """
    return _BatchLoader(
        GatheredBatches(data),
        batch_size=None,  # the sampler yields whole batches
        sampler=batches,
        # with None, each epoch would draw a number from torch's global generator
        generator=torch.Generator(),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=_as_part_of_the_training if num_workers else None,
    )


_GATHERED_BYTES = 1 << 20  # of images that are gathered together


class _BatchLoader(DataLoader[tuple[Tensor, Tensor]]):
    """A DataLoader that gathers its batches itself where no other process does.

    torch's own looks for workers, profilers and a generator at each batch, which takes as long as the gather.
    Several small batches are one gather: between two steps of the training its code comes from memory each
    time, and takes longer than the copying.
    """

    def __iter__(self) -> Any:
        """The batches of an epoch, as the sampler has them."""
        if self.num_workers or self.pin_memory:
            return super().__iter__()
        return self._gathered()

    def _gathered(self) -> Iterator[list[Tensor]]:
        dataset: Any = self.dataset
        sampler, ahead = self.sampler, 1
        if isinstance(sampler, BatchOrder):  # others may draw by a count, in turn with the steps
            ahead = gathered_together(dataset.data, sampler.batch_size)
        order = iter(sampler)
        while batches := list(islice(order, ahead)):
            gathered = dataset[batches[0] if len(batches) == 1 else torch.cat(batches)]
            begin = 0
            for indices in batches:
                size = len(indices)
                # lists, as torch's own loader makes of them
                yield [part.narrow(0, begin, size) for part in gathered]
                begin += size


def gathered_together(data: Samples, batch_size: int) -> int:
    """How many batches of so many images a loader takes out of ``data`` at once, where no process helps."""
    if not is_at_hand(data):
        return 1
    return max(1, _GATHERED_BYTES // max(1, batch_size * math.prod(data.shape)))


def _as_part_of_the_training(_worker: int) -> None:
    """Let this worker process survive signals that are sent to the whole process group, and print nothing.

    Ctrl-C, schedulers and clusters send signals to all processes. The training stops after the current
    step, for which it may need another batch; then it ends its workers itself. An error in a worker is
    raised again in the training process; once that has ended, threads that still wait to hand over memory
    would print an error about the missing receiver.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)
    sys.excepthook = lambda *_: None


def _ignore_once(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
