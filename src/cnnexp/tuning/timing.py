"""Time several ways to do one thing, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

__all__ = ["interleaved_times"]


def interleaved_times(
    ways: Mapping[str, Callable[[], object]],
    device: torch.device | str = "cpu",
    *,
    rounds: int = 5,
    seconds: float = 0.0,
    warm_up: int = 2,
) -> dict[str, list[float]]:
    """Call every way in turn, again and again, so that what disturbs the machine disturbs all.

    Each call that counts follows one of the same way that does not: else it would pay for the
    memory that the way before it had the allocator give back.

    Args:
        ways: Names and functions without arguments.
        device: Waited for before the clock is read.
        rounds: How often each is called at least.
        seconds: For how long to go on with further rounds, up to ten times ``rounds``.
        warm_up: Calls of each that do not count: compilation, allocation, caches.

    Returns:
        The times of each call in seconds, in order.
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
