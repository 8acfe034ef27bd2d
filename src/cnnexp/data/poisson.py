"""Poisson sampling: each image is in each batch independently of all others, as private training needs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import shake_256

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from cnnexp.data.draws import BatchSlice

__all__ = ["PoissonBatches", "SharedSecret"]


class SharedSecret:
    """Secret draws that the processes of a training have in common, from a key that they were given.

    The key is in memory alone, and each process advances in step with the others: batch after batch.

    Args:
        key: 32 bytes of the first process's operating system.
    """

    def __init__(self, key: bytes) -> None:
        self._key, self._draw = key, itertools.count()

    def words(self, count: int) -> np.ndarray:
        """So many random 64-bit words, new ones at each call."""
        text = self._key + next(self._draw).to_bytes(8, "little")
        return np.frombuffer(shake_256(text).digest(8 * count), dtype="<u8")


class PoissonBatches(Sampler[Tensor]):
    """Yield the indices of each batch, each image being in it with probability ``rate``.

    An epoch has as many batches as one of shuffled images, ⌈size / batch_size⌉. Batches differ in size
    and may be empty; an image may be in several of an epoch, or in none. Indices ascend.

    Args:
        size: Number of samples, ≥ 1.
        batch_size: Samples per batch on average, 1 … ``size``.
        seed: Seed of the draws, which follow from (seed, epoch, number of the batch) alone; None takes each
            draw afresh from the operating system's secure source and keeps nothing that could repeat it, or
            from ``secret``.
        epoch: The epoch whose batches are yielded first.
        skip: Batches left out at the beginning of that epoch, because they have been trained on already.
        same: Yield in every epoch the batches of epoch 0.
        rank, ranks: Which of how many processes that share each batch this one is; it gets its slice of the
            batch, which may be empty.
        secret: Where several processes draw in secret, what they draw from.

    Raises:
        ValueError: ``batch_size`` is out of range, secret draws are to be the ``same`` in every epoch, or
            several processes would each draw a secret of its own.
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
        rank: int = 0,
        ranks: int = 1,
        secret: SharedSecret | None = None,
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
        if ranks > 1 and seed is None and secret is None:
            raise ValueError(
                f"{ranks} processes cannot share batches that each draws in secret for itself; give them one "
                f"SharedSecret"
            )
        self.size, self.batch_size, self.seed, self._same = size, batch_size, seed, same
        self.epoch, self._skip_in, self._skip = epoch, epoch, skip
        self._rank, self._ranks, self._secret = rank, ranks, secret
        self._sizes: dict[int, int] = {}

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
        self._sizes = {}
        for number in range(skip, len(self)):
            drawn = self._drawn(number)
            self._sizes[number] = len(drawn)
            share = self._slice(len(drawn))
            yield drawn[share.start : share.start + share.own]

    def share(self, number: int) -> BatchSlice:
        """The slice of batch ``number`` of this epoch that this process has; it may be of no image.

        Raises:
            ValueError: The batch is secret, and not drawn yet.
        """
        size = self._sizes.get(number)
        return self._slice(len(self.batch(number)) if size is None else size)

    def _slice(self, size: int) -> BatchSlice:
        share = BatchSlice.of_rank(size, self._rank, self._ranks)
        return replace(share, images=share.own)

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
            return _secret_words if self._secret is None else self._secret.words
        epoch = 0 if self._same else self.epoch
        # the raw words of Philox are the same on each machine and in each version of NumPy
        return np.random.Philox(np.random.SeedSequence((self.seed, epoch, number))).random_raw


def _secret_words(count: int) -> np.ndarray:
    # one system call for many words; without the 32 bytes nobody can tell SHAKE's output from random bits
    return np.frombuffer(shake_256(os.urandom(32)).digest(8 * count), dtype="<u8")
