"""The numbers of the noise, against numpy's functions; the grid, against numpy's rounding."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from cnnexp.kernels.cpu import normal

COUNT = 3000  # more than one piece


@pytest.mark.parametrize("terms", [1, 3])
def test_box_muller_is_its_formula(terms: int) -> None:
    bits = np.random.default_rng(0)
    radii = bits.integers(-(2**63), 2**63, (terms, COUNT), np.int64)
    angles = bits.integers(-(2**31), 2**31, (terms, COUNT), np.int32)
    radii[0, :6] = 0, -1, 1, 2**63 - 1, -(2**63), 2**40
    angles[0, :6] = 0, -1, 1, 2**31 - 1, -(2**31), 2**30
    made, again = np.empty((2, COUNT)), np.empty((2, COUNT))
    normal.box_muller(radii, angles, made)
    radius = np.sqrt(-2 / terms * np.log((np.abs(radii.astype(float)) + 0.5) * 0.5**63))
    low = (angles << 2).astype(np.int32) * (np.pi * 0.5**33)
    turn = low + np.pi / 2 * (angles < 0) + np.pi * (angles >> 30 & 1)
    exact = (radius * np.stack([np.cos(turn), np.sin(turn)])).sum(1)
    np.testing.assert_allclose(made, exact, rtol=0, atol=3e-15 * terms)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    normal.box_muller(radii, angles, again)
    numba.set_num_threads(threads)
    assert np.array_equal(made, again)


def test_the_grid_rounds_halves_to_even() -> None:
    values = [0.5, 1.5, -0.5, -2.5, 0.49999999999999994, 2.0**52 - 0.5, -(2.0**51) - 0.5, 1e300]
    values += [-np.inf, np.nan, 2.0**53 + 2, 0.75, -0.0]
    for grid in (1.0, 0.25, 2.0**-20):
        gradient = np.array(values) * grid
        expected = np.rint(gradient / grid) * grid
        normal.add_on_grid(gradient, np.zeros(len(values)), 1.0, grid)
        assert np.array_equal(gradient, expected, equal_nan=True)
