"""Gaussian noise of a private training, from a cryptographically secure stream.

The stream is AES-256 in counter mode. Each standard normal number is the sum of ``terms`` independent ones,
divided by the square root of ``terms``; each of these is made by Box and Muller's formula, in double
precision, from a word u of 64 bits and a word v of 32 bits of the stream:

    z = √(−2 ln u) · cos(2π v),    and with sin for the partner, u being scaled to (0, 1], v to one turn

32 bits suffice for v: there are far more pairs of scaled u and v than double-precision numbers. The bits of
the noise follow from the stream alone, whatever the number of threads and the processor
(``kernels.cpu.normal``).

Floating-point numbers are not reals: the values that gradient + noise can take depend on the gradient, so
that their last bits may tell it apart from another one (Mironov 2012, doi 10.1145/2382196.2382264, for
Laplace noise; Jin et al. 2022, arXiv 2112.05307, for the Gaussian noise of DP-SGD). Two guards are taken:

- :meth:`GaussianNoise.add_` adds in double precision and then rounds once, to multiples of a power of two
  that is 2⁻²⁰ to 2⁻²¹ of the standard deviation. What is seen is a cell in which the noise can take some
  2³² values, and not its last bits. Rounding is postprocessing: it costs no privacy, and adds 10⁻¹³ of the
  variance.
- The sum of several normal numbers keeps the formula from being inverted (Holohan and Braghin 2021,
  arXiv 2107.10138). A pair (u, v) gives one term to each of two values, so that no value has both.

No draw is rejected, so that the time taken does not depend on the noise.
"""

from __future__ import annotations

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from cnnexp.privacy.extra import privacy_package

__all__ = ["GaussianNoise", "SecureNoise", "SeededNoise"]

_BLOCK = 2**17  # values made at once; an even number
_BYTES = 8 + 4  # of the stream for a pair of terms
_CELLS = 20  # the noise's standard deviation has between 2²⁰ and 2²¹ cells


class GaussianNoise(ABC):
    """A source of Gaussian noise; use :class:`SecureNoise`, or :class:`SeededNoise` in a test.

    Args:
        terms: How many normal numbers each value is the sum of, ≥ 1; the time grows in proportion.

    Raises:
        ValueError: ``terms`` is out of range.
    """

    def __init__(self, terms: int = 2) -> None:
        if terms < 1:
            raise ValueError(f"terms={terms}: must be ≥ 1; 2 or 4 are common")
        self.terms = terms
        self._stretch = np.empty(_BYTES * terms * (_BLOCK // 2), np.uint8)  # of the stream
        self._zeros = bytes(len(self._stretch))
        self._made = np.empty(0)

    def normal(self, count: int, *, step: int) -> Tensor:
        """Independent standard normal numbers.

        Args:
            count: How many, ≥ 0.
            step: The step that they are for, ≥ 0.

        Returns:
            (count,) float64, on the CPU.
        """
        made = np.empty(count + count % 2)
        self._fill(made, step)
        return torch.from_numpy(made[:count])

    @torch.no_grad()
    def add_(self, gradients: Sequence[Tensor], std: float | Sequence[float], *, step: int) -> None:
        """Add noise to all gradients of a step, in place, from one stream; call it once a step.

        Each sum is computed in float64 and rounded to a grid, see above; where the standard deviation is 0,
        the gradient stays as it is, to the bit.

        Args:
            gradients: Floating-point tensors of any shape, layout and device.
            std: The standard deviation of the noise, ≥ 0: one, or one for each gradient.
            step: The step that the gradients are of, ≥ 0.

        Raises:
            ValueError: A standard deviation is out of range or missing.
            PrivacyExtraError: The extra ``privacy`` is not installed.
        """
        stds = [std] * len(gradients) if isinstance(std, int | float) else list(std)
        if len(stds) != len(gradients):
            raise ValueError(
                f"{len(stds)} standard deviations for {len(gradients)} gradients; give one for each, or one "
                f"for all"
            )
        for each in stds:
            if not 0 <= each < math.inf:
                raise ValueError(f"std={each}: must be a finite number ≥ 0")
        if not any(stds):
            return
        sizes = [gradient.numel() for gradient in gradients]
        count = sum(sizes)
        # new memory in each step would cost as much as noise
        if len(self._made) != count + count % 2:
            self._made = np.empty(count + count % 2)
        self._fill(self._made, step)
        parts = torch.from_numpy(self._made[:count]).split(sizes)
        for gradient, part, each in zip(gradients, parts, stds, strict=True):
            if each > 0:
                _add_on_grid(gradient, part, each)

    def _fill(self, made: np.ndarray, step: int) -> None:
        """Overwrite ``made`` (n,) float64, n even, with standard normal numbers."""
        if step < 0:
            raise ValueError(f"step={step}: must be ≥ 0, the number of steps taken before")
        from cnnexp.kernels.cpu import normal

        stream = self._stream(step)
        for begin in range(0, len(made), _BLOCK):
            block = made[begin : begin + _BLOCK].reshape(2, -1)
            words = self.terms * block.shape[1]
            stretch = self._stretch[: _BYTES * words]
            stream.update_into(memoryview(self._zeros)[: len(stretch)], stretch)
            radii, angles = stretch[: 8 * words].view("<i8"), stretch[8 * words :].view("<i4")
            normal.box_muller(
                radii.astype(np.int64, copy=False).reshape(self.terms, -1),
                angles.astype(np.int32, copy=False).reshape(self.terms, -1),
                block,
            )

    @abstractmethod
    def _stream(self, step: int) -> Any:
        """The encryptor whose output for zeros is the stream of ``step``."""


class SecureNoise(GaussianNoise):
    """Noise that nobody can repeat: the key is taken from the operating system's entropy.

    The key lives in this process alone. It is in no attribute and is not written, copied or pickled; a forked
    process takes one of its own, and a resumed training a new one. ``step`` has no influence.

    Raises:
        PrivacyExtraError: The extra ``privacy`` is not installed.
    """

    def __init__(self, terms: int = 2) -> None:
        super().__init__(terms)
        self._process, self._encryptor = os.getpid(), _encryptor(os.urandom(32), os.urandom(16))

    def __repr__(self) -> str:
        return f"SecureNoise(terms={self.terms})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a SecureNoise cannot be copied or pickled, since its key leaves no process; make a new one"
        )

    def _stream(self, step: int) -> Any:
        del step  # the stream is never the same
        if self._process != os.getpid():
            self._process, self._encryptor = os.getpid(), _encryptor(os.urandom(32), os.urandom(16))
        return self._encryptor


class SeededNoise(GaussianNoise):
    """Noise for tests: its bits follow from (seed, step, how many) alone, so that it protects nothing.

    Args:
        seed: Any integer.
        terms: See :class:`GaussianNoise`.
    """

    def __init__(self, seed: int, terms: int = 2) -> None:
        super().__init__(terms)
        self.seed = seed

    def __repr__(self) -> str:
        return f"SeededNoise({self.seed}, terms={self.terms})"

    def _stream(self, step: int) -> Any:
        key = hashlib.sha256(f"cnnexp.privacy.noise {self.seed}".encode()).digest()
        return _encryptor(key, step.to_bytes(8, "big") + bytes(8))


def _encryptor(key: bytes, counter: bytes) -> Any:
    ciphers = privacy_package("cryptography.hazmat.primitives.ciphers")
    return ciphers.Cipher(ciphers.algorithms.AES(key), ciphers.modes.CTR(counter)).encryptor()


def _add_on_grid(gradient: Tensor, noise: Tensor, std: float) -> None:
    """Add ``std`` · ``noise`` (n,) float64 to the n numbers of the gradient, in their order in memory."""
    grid = 2.0 ** (math.floor(math.log2(std)) - _CELLS)
    dims = sorted(range(gradient.dim()), key=gradient.stride, reverse=True)
    laid = gradient.permute(dims)
    flat = laid.reshape(-1)  # a view, unless there are gaps in the memory
    if flat.device.type == "cpu" and flat.dtype in (torch.float32, torch.float64):
        from cnnexp.kernels.cpu import normal

        normal.add_on_grid(flat.numpy(), noise.numpy(), std, grid)
    else:
        # Apple's GPUs have no float64
        device = torch.device("cpu") if flat.device.type == "mps" else flat.device
        total = (noise.to(device) * std).add_(flat.to(device))
        flat.copy_(total.div_(grid).round_().mul_(grid))
    if not laid.is_contiguous():
        laid.copy_(flat.view(laid.shape))
