"""Time several ways to do one thing, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch


def interleaved_times(
    ways: Mapping[str, Callable[[], object]],
    device: torch.device | str = "cpu",
    *,
    rounds: int = 5,
    seconds: float = 0.0,
    warm_up: int = 2,
) -> dict[str, list[float]]:
    """Call every way in turn, repeatedly, so that a disturbance of the machine affects all.

    Each call that counts follows one of the same way that does not; otherwise it would pay for the
    memory that the previous way made the allocator return.

    Args:
        ways: Names and functions without arguments.
        device: The device to wait for before the clock is read.
        rounds: Each way is called at least this often.
        seconds: Further rounds follow until this many seconds have passed, up to ten times ``rounds``.
        warm_up: How many first calls of each way do not count: compilation, allocation, caches.

    Returns:
        The seconds of each call, in order.
    """

    def wait() -> None:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(warm_up):
        for function in ways.values():
            function()
    times: dict[str, list[float]] = {name: [] for name in ways}
    begin = time.perf_counter()
    done = 0
    while done < rounds or (time.perf_counter() - begin < seconds and done < 10 * rounds):
        for name, function in ways.items():
            function()
            wait()
            start = time.perf_counter()
            function()
            wait()
            times[name].append(time.perf_counter() - start)
        done += 1
    return times
