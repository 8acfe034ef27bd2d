"""What a middling call costs with cnnexp's own op: the yardstick of a right piece of work."""

from __future__ import annotations

import statistics
import time

import torch

from cnnexp.grading.cases import middling
from cnnexp.grading.right import leaves_of, run
from cnnexp.tuning.memory import peak_bytes


def cost_of_ours(op: str, taken: frozenset[str]) -> dict[str, float]:
    """Milliseconds (median of 7) and bytes at most of forward and backward, in float64, on one thread."""
    case = middling(op, taken)
    leaves = leaves_of(case)
    g = torch.as_tensor(case.grad_output)
    wanted = [leaf for leaf in leaves.values() if leaf.requires_grad]

    def step() -> None:
        torch.autograd.grad(run(op, leaves, case.settings), wanted, g)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step()
        times = []
        for _ in range(7):
            start = time.perf_counter()
            step()
            times.append(1000 * (time.perf_counter() - start))
        peak = peak_bytes(step, torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    found = {"our_ms": statistics.median(times)}
    return found if not peak or peak < 0 else found | {"our_bytes": float(peak)}
