"""Poisson sampling: each image is in each batch independently of all others, as private training needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from hashlib import shake_256

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

__all__ = ["PoissonBatches"]


class PoissonBatches(Sampler[Tensor]):
    """Yield the indices of each batch, each image being in it with probability ``rate``.

    An epoch has as many batches as one of shuffled images, ⌈size / batch_size⌉. Batches differ in size
    and may be empty; an image may be in several of an epoch, or in none. Indices ascend.

    Args:
        size: Number of samples, ≥ 1.
        batch_size: Samples per batch on average, 1 … ``size``.
        seed: Seed of the draws, which follow from (seed, epoch, number of the batch) alone; None takes each
            draw afresh from the operating system's secure source and keeps nothing that could repeat it.
        epoch: The epoch whose batches are yielded first.
        skip: Batches left out at the beginning of that epoch, because they have been trained on already.
        same: Yield in every epoch the batches of epoch 0.

    Raises:
        ValueError: ``batch_size`` is out of range, or secret draws are to be the ``same`` in every epoch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int | None,
        *,
        epoch: int = 0,
        skip: int = 0,
        same: bool = False,
    ) -> None:
        if not 1 <= batch_size <= size:
            raise ValueError(
                f"data.batch_size={batch_size}: Poisson sampling needs 1 … {size}, the number of training "
                f"images, since each is drawn with probability batch_size / {size}"
            )
        if same and seed is None:
            raise ValueError(
                "secret draws cannot be the same in every epoch; set data.secret=false, or train on new "
                "batches in each epoch"
            )
        self.size, self.batch_size, self.seed, self._same = size, batch_size, seed, same
        self.epoch, self._skip_in, self._skip = epoch, epoch, skip

    @property
    def rate(self) -> float:
        """The probability with which an image is in a batch."""
        return self.batch_size / self.size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches are yielded next; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        skip = self._skip if self.epoch == self._skip_in else 0
        for number in range(skip, len(self)):
            yield self._drawn(number)

    def batch(self, number: int) -> Tensor:
        """The indices of batch ``number`` of the epoch, counted from 0, whether or not it is skipped.

        Raises:
            ValueError: The draws are secret.
        """
        if self.seed is None:
            raise ValueError(
                "the images of a secretly drawn batch cannot be told again; set data.secret=false"
            )
        return self._drawn(number)

    def _drawn(self, number: int) -> Tensor:
        if self.batch_size == self.size:
            return torch.arange(self.size)
        words = self._words(number)
        # an image is drawn if its 64 random bits are a number below rate · 2⁶⁴, which is a whole number;
        # the first 16 bits decide nearly always
        first, rest = divmod(int(self.rate * 2**64), 2**48)
        short = words(-(-self.size // 4)).astype("<u8").view("<u2")[: self.size]
        drawn = short < first
        (undecided,) = (short == first).nonzero()
        drawn[undecided] = words(len(undecided)) >> np.uint64(16) < rest
        return torch.from_numpy(drawn.nonzero()[0])

    def _words(self, number: int) -> Callable[[int], np.ndarray]:
        """A function that gives as many new random 64-bit words as it is asked for."""
        if self.seed is None:
            return _secret_words
        epoch = 0 if self._same else self.epoch
        # the raw words of Philox are the same on each machine and in each version of NumPy
        return np.random.Philox(np.random.SeedSequence((self.seed, epoch, number))).random_raw


def _secret_words(count: int) -> np.ndarray:
    # one system call for many words; without the 32 bytes nobody can tell SHAKE's output from random bits
    return np.frombuffer(shake_256(os.urandom(32)).digest(8 * count), dtype="<u8")
