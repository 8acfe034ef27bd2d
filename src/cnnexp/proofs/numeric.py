"""One leaf's derivatives by differences: element by element, or by samples where it is large."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Size, Tensor

from cnnexp.proofs.calls import Call
from cnnexp.proofs.differences import Noise, Slope, slope_at, slope_near
from cnnexp.proofs.mistakes import Evidence, explain

_LARGEST_JACOBIAN = 4_000_000
_CONFIRMED = 16
_DIRECTIONS = 4
_CLOSE_BY = 8

Row = Callable[[Call, Sequence[Tensor]], Tensor]


class Numeric:
    """The derivatives of a call's outputs with respect to one leaf.

    Attributes:
        expected: ∂L/∂leaf at the checked places, for L = Σ weights · outputs; in the leaf's shape if
            all places are checked.
        unjudged: At how many places there is no finite difference.
    """

    def __init__(
        self,
        call: Call,
        leaf: int,
        row: Row,
        middle: Tensor,
        weights: Tensor,
        noise: Noise,
        elements: int,
    ) -> None:
        self.call, self.leaf, self.row, self.noise = call, leaf, row, noise
        self.value, self.weights = call.leaves[leaf].value, weights
        count = self.value.numel()
        limit = max(16, min(elements, _LARGEST_JACOBIAN // max(1, middle.numel())))
        self.whole = count <= limit
        generator = torch.Generator().manual_seed(11)
        drawn = torch.randperm(count, generator=generator)[:limit].sort().values
        self.places = [int(i) for i in (range(count) if self.whole else drawn)]
        rows = [self._difference(place) for place in self.places]
        self.jacobian = torch.stack(rows) if rows else torch.zeros(0, middle.numel())
        self.jacobian = self.jacobian.double()
        expected = self.jacobian @ weights.double()
        self.expected = expected.reshape(self.value.shape) if self.whole else expected
        self._reached = (self.jacobian != 0).any(0) | self._changed(middle)
        size = self._size = (middle.abs() * weights.abs())[self._reached].sum().item()
        self.floor = 10 * noise.relative * size / noise.step if math.isfinite(size) else math.inf
        self.unjudged = 0
        self._plain = torch.ones(len(self.places), dtype=torch.bool)

    def _changed(self, middle: Tensor) -> Tensor:
        """A mask of the outputs that the leaf reaches: the rounding of others, such as a mask's −1e9, would
        hide what it does to these.
        """
        generator = torch.Generator().manual_seed(31)
        drawn = torch.randn(self.value.shape, generator=generator, dtype=torch.float64)
        values, by = self.call.values(), drawn.to(self.value.dtype).to(self.value.device)
        values[self.leaf] = self.value + self.noise.step * by
        try:
            return self.row(self.call, values) != middle
        except Exception:  # outside the function's domain
            return torch.ones_like(middle, dtype=torch.bool)

    def _moved(self, place: int, by: float) -> Tensor:
        values = self.call.values()
        moved = self.value.detach().clone()
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), moved.shape))
        moved[index] += by
        values[self.leaf] = moved
        try:
            return self.row(self.call, values)
        except Exception:  # outside the function's domain
            return torch.full_like(self.weights, math.nan)

    def _step(self, place: int) -> float:
        return self.noise.step * max(1.0, abs(self.value.reshape(-1)[place].item()))

    def _difference(self, place: int) -> Tensor:
        h = self._step(place)
        above, below = self._moved(place, h), self._moved(place, -h)
        # equal infinities too: a constant
        return torch.where(above == below, 0.0, (above - below) / (2 * h))

    def _loss(self, outputs: Tensor) -> Tensor:
        """Σ weights · outputs, of those that the leaf reaches."""
        return outputs[self._reached] @ self.weights[self._reached]

    def _slope(self, place: int, found: float) -> Slope:
        """The slope at one element, with steps on the scale of 1 or of the element, whichever fits
        ``found``.
        """
        value = abs(self.value.reshape(-1)[place].item())
        scales = [max(1.0, value), *([min(1.0, value)] if value not in (0.0, 1.0) else [])]
        slopes = []
        for scale in scales:
            slope = slope_at(
                lambda by: self._loss(self._moved(place, by)).item(),
                self.noise,
                scale,
                self._size,
            )
            if slope.agrees(found, self.noise.tolerance, self.floor):
                return slope
            slopes.append(slope)
        return min(slopes, key=lambda s: s.error / max(abs(s.value), 1e-300))

    def matters(self) -> bool:
        """Whether the outputs depend on the leaf."""
        return bool((self.jacobian.nan_to_num().abs() > 10 * self.floor + 1e-9).any())

    def allowed(self, found: Tensor) -> float:
        """The greatest error that a gradient may have."""
        sizes = [t.abs().max().item() for t in (self.expected, found) if t.numel()]
        finite = [size for size in sizes if math.isfinite(size)]
        return self.noise.tolerance * max(finite[:1], default=0.0) + self.floor

    def judge(
        self, grad: Tensor, others: dict[str, Tensor], shapes: Sequence[Size]
    ) -> tuple[float, str | None]:
        """The error of ``grad``, relative where above 1, and a sentence on what is wrong; None if
        nothing is.
        """
        flat = grad.detach().reshape(-1)[self.places].double().cpu()
        expected = self.expected.reshape(-1).clone()
        wrong = self._wrong(flat, expected)
        if not self.whole and not wrong.any():
            return self._by_directions(grad, flat, expected)
        scale = max(1.0, expected.abs().nan_to_num(0, 0).max().item() if len(expected) else 0.0)
        gaps = (flat - expected).abs()
        error = gaps.max().item() / scale if len(gaps) else 0.0
        if not wrong.any():
            return error, None
        shape = self.value.shape if self.whole else flat.shape
        evidence = Evidence(
            name=self.call.leaves[self.leaf].name,
            found=flat.reshape(shape),
            expected=expected.reshape(shape),
            wrong=wrong.reshape(shape),
            value=self.value.detach().reshape(-1)[self.places].double().cpu().reshape(shape),
            jacobian=self.jacobian,
            weights=self.weights,
            shapes=shapes,
            others=others,
            close=max(1e-4, min(0.02, self.noise.tolerance)),
            sampled=None if self.whole else (self.places, self.value.shape),
        )
        return error, explain(evidence)

    def _wrong(self, found: Tensor, expected: Tensor) -> Tensor:
        """A mask of where ``found`` is not a derivative; ``expected`` is refined where it is
        checked again.
        """
        gap = (found - expected).abs()
        suspects = (~(gap <= self.allowed(found))).nonzero().flatten().tolist()
        suspects.sort(key=lambda i: -gap[i].nan_to_num(torch.inf).item())
        wrong = torch.zeros(len(found), dtype=torch.bool)
        for i in suspects:
            if int(wrong.sum()) >= _CONFIRMED:
                wrong[i] = True
                continue
            self._plain[i] = False
            slope = self._slope(self.places[i], found[i].item())
            if slope.agrees(found[i].item(), self.noise.tolerance, self.floor) or (
                slope.sides[0] != slope.sides[1] and self._near(self.places[i], found[i].item())
            ):
                expected[i] = found[i]
            elif math.isnan(slope.value) or (slope.diverges and bool(found[i].isinf())):
                self.unjudged += 1
                expected[i] = found[i]
            else:
                wrong[i] = True
                expected[i] = slope.value
        return wrong

    def _near(self, place: int, found: float) -> bool:
        """Whether ``found`` is among the slopes close by: where values tie in a sort, any order is right."""
        generator = torch.Generator().manual_seed(29)
        h, slopes, kept = 1e-7, [], self.value
        for _ in range(_CLOSE_BY):
            drawn = torch.rand(kept.shape, generator=generator, dtype=torch.float64) - 0.5
            noise = 1e-5 * drawn.to(kept.dtype).to(kept.device) * kept.abs().clamp(min=1.0)
            try:
                self.value = kept + noise
                slope = self._loss(self._moved(place, h) - self._moved(place, -h)) / (2 * h)
            finally:
                self.value = kept
            slopes.append(slope.item())
        allowed = max(1e-3, self.noise.tolerance) * max(map(abs, slopes)) + self.floor
        return min(slopes) - allowed <= found <= max(slopes) + allowed

    def _by_directions(
        self, grad: Tensor, flat: Tensor, expected: Tensor
    ) -> tuple[float, str | None]:
        """Check elements beyond the samples by derivatives along random directions, which all
        elements enter.
        """
        error = (flat - expected).abs().max().item() / max(1.0, expected.abs().max().item())
        generator = torch.Generator().manual_seed(13)
        found = grad.detach().reshape(-1).double().cpu()
        for _ in range(_DIRECTIONS):
            direction = torch.randn(len(found), generator=generator, dtype=torch.float64)
            if self._along(direction, found):
                continue
            where = torch.arange(len(found))
            while len(where) > 1:  # keep the half that does not agree
                halves = where.tensor_split(2)
                parts = [torch.zeros_like(direction).index_add(0, h, direction[h]) for h in halves]
                bad = [
                    h for h, part in zip(halves, parts, strict=True) if not self._along(part, found)
                ]
                if not bad:
                    break
                where = bad[0]
            name = self.call.leaves[self.leaf].name
            if len(where) > 1:
                continue  # the difference is too small to be significant
            slope = self._slope(int(where), found[where].item())
            if not math.isnan(slope.value) and not slope.agrees(
                found[where].item(), self.noise.tolerance, self.floor
            ):
                index = [int(i) for i in torch.unravel_index(where[0], self.value.shape)]
                return error, (
                    f"∂L/∂{name} is wrong at {name}{index}: {found[where].item():.6g} instead of "
                    f"{slope.value:.6g}; {len(self.places)} elements drawn at random are right"
                )
        return error, None

    def _along(self, direction: Tensor, found: Tensor) -> bool:
        step = direction.reshape(self.value.shape).to(self.value.dtype).to(self.value.device)

        def loss(by: float) -> float:
            values = self.call.values()
            values[self.leaf] = self.value + by * step
            return self._loss(self.row(self.call, values)).item()

        mine = (found @ direction).item()
        size = (found * direction).norm().item()
        allowed = 10 * self.noise.tolerance * max(size, abs(mine)) + self.floor
        slope = slope_near(loss, mine, allowed, self.noise, self._size)
        return math.isnan(slope.value) or slope.agrees(mine, 10 * self.noise.tolerance, allowed)

    def agrees_on_part(self, grad: Tensor | None, part: slice) -> bool:
        """Whether ``grad`` is the gradient of the outputs in ``part`` only, away from kinks."""
        expected = self.jacobian[:, part] @ self.weights[part]
        if grad is None:
            return bool((expected.abs() <= 10 * self.floor + 1e-9).all())
        found = grad.detach().reshape(-1)[self.places].double().cpu()
        gap = (found - expected).abs()
        return bool((gap <= 10 * self.allowed(found))[self._plain].all())
