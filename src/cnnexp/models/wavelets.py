"""The filters of the wavelet scattering transform: Morlet wavelets and a Gaussian low-pass.

All are computed in float64 on the CPU, so that their bits do not depend on where the network is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["gaussian_rows", "morlet_wavelets"]

_SIGMA = 0.8  # pixels: the width of the finest wavelet along its wave
_FREQUENCY = 3 * math.pi / 4  # radians per pixel: that of the finest wavelet
_PERIODS = 2  # so far to each side the filters are not negligible: 7 widths at least


def morlet_wavelets(height: int, width: int, scale: int, angles: int) -> Tensor:
    """The Morlet wavelets of one scale and of all angles, on a torus of height × width.

    With the scale j, L angles, e_θ = (cos θ, sin θ) in (row, column), e_θ⊥ = (−sin θ, cos θ):

        θ_l = (⌊L/2⌋ − 1 − l) π / L,  l = 0, …, L − 1
        σ = 0.8 · 2^j,  ξ = (3π/4) · 2^−j,  s = 4/L
        g(u)  ∝  exp(−((u·e_θ)² + s² (u·e_θ⊥)²) / (2σ²))
        ψ(u)  =  g(u) (exp(i ξ u·e_θ) − β)

    continued periodically, where Σ g = 1, and β is such that Σ ψ = 0.

    Args:
        height, width: The size of the torus, H × W.
        scale: The scale j ≥ 0; each is twice as wide as the one before.
        angles: The number of angles, L.

    Returns:
        (L, H, W) complex128, with the origin at [0, 0].

    Source: Andreux et al., "Kymatio: Scattering Transforms in Python" (2020), whose filters these are,
    except that Σ g is 1 exactly.
    """
    sigma, slant = _SIGMA * 2**scale, 4 / angles
    theta = (angles // 2 - 1 - _numbers(0, angles)) * (math.pi / angles)
    cos, sin = (part.view(-1, 1, 1) for part in (theta.cos(), theta.sin()))
    rows = _numbers(-_PERIODS * height, (_PERIODS + 1) * height).view(-1, 1)
    columns = _numbers(-_PERIODS * width, (_PERIODS + 1) * width)
    along, across = rows * cos + columns * sin, columns * cos - rows * sin
    envelope = torch.exp(-(along.square() + (slant * across).square()) / (2 * sigma**2))
    wave = torch.polar(envelope, _FREQUENCY / 2**scale * along)
    folds = (angles, 2 * _PERIODS + 1, height, 2 * _PERIODS + 1, width)
    envelope, wave = (part.view(folds).sum((1, 3)) for part in (envelope, wave))
    total = envelope.sum((1, 2), keepdim=True)
    return (wave - wave.sum((1, 2), keepdim=True) / total * envelope) / total


def gaussian_rows(length: int, sigma: float, step: int, count: int) -> Tensor:
    """The matrix that smooths a periodic signal, and takes every ``step``-th value but the first.

    A[n, m] = φ(step · (n + 1) − m) with φ(u) ∝ exp(−u² / (2σ²)) continued periodically, Σ_m A[n, m] = 1.

    Returns:
        (count, length) float64.
    """
    places = _numbers(-_PERIODS * length, (_PERIODS + 1) * length)
    phi = torch.exp(-places.square() / (2 * sigma**2)).view(-1, length).sum(0)
    return torch.stack([phi.roll(step * (n + 1)) for n in range(count)]) / phi.sum()


def _numbers(start: int, stop: int) -> Tensor:
    return torch.arange(start, stop, dtype=torch.float64, device="cpu")
