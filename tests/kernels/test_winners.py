"""Lists of winners are the same, in the same order, whether vectors write them or not."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from cnnexp.geometry.pooling import DEAD
from cnnexp.kernels.cpu import bfloat16
from cnnexp.kernels.cpu.pointers import hold, start_of
from cnnexp.kernels.cpu.winners import SLACK, list_by_channel, list_by_offset, list_window

# pyright: reportCallIssue=false, reportArgumentType=false

WINDOW = 4
DTYPES = [
    (np.float64, np.uint32),
    (np.float32, np.uint32),
    pytest.param(
        np.uint16,
        np.uint16,
        marks=pytest.mark.skipif(not bfloat16.AVAILABLE, reason="no instructions for bfloat16"),
    ),
]


@njit
def _by_channel(codes, grads, entries, weights, counts):
    (rows, channels), (listed, apart) = codes.shape, entries.shape
    list_by_channel(
        *(start_of(codes), start_of(grads), channels, rows, 4),
        *(start_of(entries), start_of(weights), apart, start_of(counts), listed),
    )
    hold((codes, grads, entries, weights, counts))


@njit
def _by_offset(codes, grads, first, step, k, entries, weights, end):
    end = list_by_offset(
        *(start_of(codes), start_of(grads), codes.size, first, step, k),
        *(start_of(entries), start_of(weights), end),
    )
    hold((codes, grads, entries, weights))
    return end


def _winners(rows: int, channels: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(rows * 100 + channels)
    codes = draws.choice(np.array([0, 1, 2, 3, DEAD], np.uint8), (rows, channels))
    return codes, draws.integers(1, 60_000, (rows, channels)).astype(dtype)


@pytest.mark.parametrize(("dtype", "number"), DTYPES)
@pytest.mark.parametrize("listed", [16, 32, 7])
@pytest.mark.parametrize("rows", [1, 15, 16, 33, 100])
def test_a_channel_has_its_winners_in_the_order_of_positions(
    rows: int, listed: int, dtype: type, number: type
) -> None:
    codes, grads = _winners(rows, 40, dtype)
    entries = np.zeros((listed, rows + SLACK), number)
    weights, counts = np.zeros((listed, rows + SLACK), dtype), np.full(listed, 9)
    _by_channel(codes, grads, entries, weights, counts)
    for o in range(listed):
        (alive,) = np.nonzero(codes[:, o] != DEAD)
        assert counts[o] == len(alive)
        np.testing.assert_array_equal(
            entries[o, : counts[o]], alive * WINDOW + codes[alive, o].astype(int)
        )
        np.testing.assert_array_equal(weights[o, : counts[o]], grads[alive, o])


@njit
def _by_window(codes, grads, first, step, window, entries, weights, starts):
    list_window(
        *(start_of(codes), start_of(grads), codes.size, first, step, window),
        *(start_of(entries), start_of(weights), start_of(starts)),
    )
    hold((codes, grads, entries, weights, starts))


@pytest.mark.parametrize(("dtype", "number"), DTYPES)
@pytest.mark.parametrize("channels", [1, 16, 37, 64])
@pytest.mark.parametrize("window", [WINDOW, 49])
def test_a_window_has_the_lists_of_its_elements_one_after_the_other(
    window: int, channels: int, dtype: type, number: type
) -> None:
    (codes,), (grads,) = _winners(1, channels, dtype)
    starts = np.full(window + 3, -7)
    starts[0] = 4
    entries = np.full(4 + channels + SLACK + 5, 3, number)
    weights = np.full(entries.size, 2, dtype)
    _by_window(codes, grads, 64, 9, window, entries, weights, starts)
    expected = [np.nonzero(codes == k)[0] for k in range(window)]
    ends = 4 + np.cumsum([len(won) for won in expected])
    assert starts[: window + 1].tolist() == [4, *ends]
    assert starts[-1] == -7
    won = np.concatenate(expected)
    np.testing.assert_array_equal(entries[4 : ends[-1]], 64 + won * 9)
    np.testing.assert_array_equal(weights[4 : ends[-1]], grads[won])
    assert [*entries[:4], *entries[-5:]] == [3] * 9  # nothing outside of the room is touched
    assert [*weights[:4], *weights[-5:]] == [2] * 9


@pytest.mark.parametrize(("dtype", "number"), DTYPES)
@pytest.mark.parametrize("channels", [1, 16, 37, 64])
@pytest.mark.parametrize(("first", "step", "end"), [(0, 1, 0), (64, 9, 5)])
def test_an_element_of_a_window_has_its_channels_in_their_order(
    channels: int, first: int, step: int, end: int, dtype: type, number: type
) -> None:
    (codes,), (grads,) = _winners(1, channels, dtype)
    for k in range(WINDOW):
        (won,) = np.nonzero(codes == k)
        entries = np.full(end + channels + SLACK, 3, number)
        weights = np.full(entries.size, 2, dtype)
        assert _by_offset(codes, grads, first, step, k, entries, weights, end) == end + len(won)
        assert (entries[:end] == 3).all()
        assert (weights[:end] == 2).all()
        np.testing.assert_array_equal(entries[end : end + len(won)], first + won * step)
        np.testing.assert_array_equal(weights[end : end + len(won)], grads[won])
