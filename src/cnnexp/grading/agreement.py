"""When an answer counts as right: equal up to rounding, or, at ties and kinks, one of the subgradients."""

from __future__ import annotations

import numpy as np

from cnnexp.grading.cases import Array, Case

TOLERANCE = 1e-4  # of the largest element: float32 passes, a wrong term does not
_LEAST_SCALE = 0.02


def close(found: Array | None, expected: Array) -> bool:
    """Whether ``found`` has the shape and the numbers of ``expected``; axes of length 1 do not count."""
    if found is None or not fits_shape(found.shape, expected.shape):
        return False
    return not wrong_places(found.reshape(expected.shape), expected).any()


def fits_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether two shapes are the same but for axes of length 1 (a bias of (O, 1) for (O,))."""
    if found == expected:
        return True
    few = len(expected) <= 1  # an image with an axis too many is another thing
    return few and [n for n in found if n != 1] == [n for n in expected if n != 1]


def wrong_places(found: Array, expected: Array) -> Array:
    """Where two arrays of one shape differ."""
    finite = np.abs(expected[np.isfinite(expected)])
    scale = max(float(finite.max(initial=0.0)), _LEAST_SCALE)
    with np.errstate(invalid="ignore"):
        return ~((np.abs(found - expected) <= TOLERANCE * scale) | (found == expected))


def is_right(case: Case, part: str, found: Array | None) -> bool:
    """Whether ``found`` is right as the output ("y") or the gradient ``part`` of ``case``."""
    expected = case.right[part]
    if part == "y" or not case.kink or case.judged is not None:
        return close(found, expected)
    if found is None or found.shape != expected.shape:
        return False
    return _relu_kink(case, found) if case.op == "relu" else _ties(case, found)


def _relu_kink(case: Case, found: Array) -> bool:
    """At x = 0 anything between 0 and g."""
    x, g = case.tensors["x"], case.grad_output
    low, high = np.minimum(0, g), np.maximum(0, g)
    inside = (found >= low - TOLERANCE) & (found <= high + TOLERANCE)
    return bool(np.where(x == 0, inside, np.abs(found - g * (x > 0)) <= TOLERANCE).all())


def _ties(case: Case, found: Array) -> bool:
    """In each window (they do not overlap) shares of g, for the largest elements only, that add up to g."""
    x, g, k = case.tensors["x"], case.grad_output, case.settings["kernel_size"]
    for p, q in np.ndindex(g.shape[2:]):
        place = (slice(None), slice(None), slice(p * k, (p + 1) * k), slice(q * k, (q + 1) * k))
        window, got, sent = x[place], found[place], g[:, :, p, q, None, None]
        winners = window == window.max((2, 3), keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(sent == 0, 0, got / sent)
        if (np.abs(got[~winners]) > TOLERANCE).any() or (shares < -TOLERANCE).any():
            return False
        if (np.abs(got.sum((2, 3), keepdims=True) - sent) > TOLERANCE * 10).any():
            return False
    return True
