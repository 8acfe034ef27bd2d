"""Central differences with an estimate of their own error.

The step follows from the noise of the function: about 6e-6 where it computes in float64, 4e-3 where
it computes in float32 inside, whatever the dtype of its result is. A value that does not agree
with the gradient is checked again with steps of other sizes, so that neither a strongly curved
function nor a kink nor noise is taken for a wrong gradient.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_ROUNDING = 2.2e-16
_STEPS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)


class Noise(NamedTuple):
    """The precision with which a function computes.

    Attributes:
        relative: The rounding noise relative to the size of the results; 2e-16 in float64.
    """

    relative: float

    @property
    def step(self) -> float:
        """The step at which the errors of rounding and of curvature are about equal."""
        return self.relative ** (1 / 3)

    @property
    def tolerance(self) -> float:
        """The relative tolerance: 1e-6 in float64, and the precision of the differences where noise
        is larger.
        """
        return max(1e-6, 300 * self.relative ** (2 / 3))

    @property
    def coarse(self) -> bool:
        """Whether the function computes in less than float64."""
        return self.relative > 1e-12


def vector(tensors: Sequence[Tensor]) -> Tensor:
    """All elements of ``tensors`` in one vector, as float64."""
    return torch.cat([t.detach().reshape(-1).double() for t in tensors])


def noise_of(function: Callable[[Sequence[Tensor]], Tensor], values: Sequence[Tensor]) -> Noise:
    """The rounding noise of ``function`` around ``values``, relative to its largest result.

    Second differences shrink with the square of the step where the function is smooth, with the
    step at a kink, and not at all where they are noise.
    """
    middle = function(values)
    try:
        return _noise_around(function, values, middle)
    except Exception:  # the values are at the border of the domain: it refuses values close by
        return Noise(_ROUNDING)


def _noise_around(
    function: Callable[[Sequence[Tensor]], Tensor], values: Sequence[Tensor], middle: Tensor
) -> Noise:
    scale = middle.abs().max().item() if middle.numel() else 0.0
    if not scale or not math.isfinite(scale):
        return Noise(_ROUNDING)
    generator = torch.Generator().manual_seed(3)
    directions = [_direction(v, generator) for v in values]
    bends = []
    for step in (1e-5, 1e-4):
        above, below = (
            function([v + s * d for v, d in zip(values, directions, strict=True)])
            for s in (step, -step)
        )
        bends.append((above - 2 * middle + below).abs().max().item() / scale)
    fine, coarse = bends
    noisy = fine > 1e-10 and coarse < 3 * fine
    return Noise(max(_ROUNDING, fine / 2) if noisy else _ROUNDING)


def _direction(value: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return drawn.to(value.dtype).to(value.device) * value.abs().clamp(max=1.0, min=1e-3)


class Slope(NamedTuple):
    """A derivative by differences.

    Attributes:
        value: The central difference at the step size on which it depends least.
        error: The greatest distance that it may have from the derivative.
        sides: The one-sided differences to the left and to the right, which differ at a kink; else
            ``value`` twice.
    """

    value: float
    error: float
    sides: tuple[float, float]

    @property
    def diverges(self) -> bool:
        """Whether differences grow as the step shrinks, as those of a square root at 0 do."""
        return self.error > 0.3 * abs(self.value) > 0

    def agrees(self, found: float, tolerance: float, floor: float) -> bool:
        """Whether ``found`` is this derivative or, at a kink, lies between the two one-sided ones."""
        if not math.isfinite(found):
            return False
        allowed = tolerance * max(abs(self.value), abs(found)) + floor + 3 * self.error
        if abs(found - self.value) <= allowed:
            return True
        low, high = sorted(self.sides)
        return low - allowed <= found <= high + allowed


def slope_at(
    function: Callable[[float], float], noise: Noise, scale: float = 1.0, size: float = 0.0
) -> Slope:
    """The derivative of ``function`` at 0, from steps of eight sizes.

    At the border of its domain, where it is not finite or raises on one side, the differences are
    those of the other side.

    Args:
        function: A function of one number.
        noise: The function's noise.
        scale: The unit of the steps; the largest step is 1e-2 of it.
        size: The size of the terms that make up the function's result, if it is a sum that cancels.
    """
    at = _nan_if_raised(function)
    middle = at(0.0)
    rows = []
    for step in _STEPS:
        if noise.coarse and step < noise.step / 10:
            break
        h = step * scale
        above, below = at(h), at(-h)
        rounding = 2 * noise.relative * max(size, abs(middle)) / h
        if math.isfinite(above) and math.isfinite(below):
            row = (above - below) / (2 * h), (middle - below) / h, (above - middle) / h
            rows.append((rounding, *row))
        elif math.isfinite(above) or math.isfinite(below):
            one = _one_sided(at, middle, h if math.isfinite(above) else -h)
            if math.isfinite(one):
                rows.append((rounding, one, one, one))
    if len(rows) < 2:
        return Slope(math.nan, math.inf, (math.nan, math.nan))
    errors = [abs(a[1] - b[1]) + b[0] for a, b in itertools.pairwise(rows)]
    pairs = zip(errors, itertools.pairwise(rows), strict=True)
    shares = [e / max(abs(a[1]), abs(b[1]), 1e-300) for e, (a, b) in pairs]
    # relative gaps, because far from a pole's steep side all differences are small, and their gaps too
    known = min(shares) < 0.1
    best = min(range(len(errors)), key=lambda i: shares[i] if known else errors[i])
    (_, wide, *outer), (_, value, *inner) = rows[best], rows[best + 1]
    gap = abs(inner[1] - inner[0])
    # where the function is curved, the two sides converge as the step shrinks; at a kink they do not
    kink = gap > 0.5 * abs(outer[1] - outer[0]) and gap > 1e-3 * max(map(abs, inner))
    return Slope(value, abs(wide - value), (inner[0], inner[1]) if kink else (value, value))


def slope_near(
    function: Callable[[float], float], guess: float, allowed: float, noise: Noise, size: float
) -> Slope:
    """The derivative of ``function`` at 0: one central difference if it is as near as ``allowed`` to
    ``guess``, else that of :func:`slope_at`.
    """
    at, h = _nan_if_raised(function), noise.step
    slope = (at(h) - at(-h)) / (2 * h)
    if abs(slope - guess) <= allowed:
        return Slope(slope, 0.0, (slope, slope))
    return slope_at(function, noise, size=size)


def _nan_if_raised(function: Callable[[float], float]) -> Callable[[float], float]:
    def at(by: float) -> float:
        try:
            return function(by)
        except Exception:  # outside the function's domain
            return math.nan

    return at


def _one_sided(function: Callable[[float], float], middle: float, h: float) -> float:
    """The derivative at 0 from values on the side of ``h`` only, to second order."""
    return (4 * function(h / 2) - 3 * middle - function(h)) / h
