"""Measure speed and memory of training steps and single ops, ours and torch's side by side in one process."""

from cnnexp.speed.best import Comparison, broken_promises, compare, compare_by_precision
from cnnexp.speed.networks import MODELS, known_networks, network_named
from cnnexp.speed.result import Measured, conditions, write_results
from cnnexp.speed.single import SITUATIONS, bench_op
from cnnexp.speed.step import bench_step

__all__ = [
    "MODELS",
    "SITUATIONS",
    "Comparison",
    "Measured",
    "bench_op",
    "bench_step",
    "broken_promises",
    "compare",
    "compare_by_precision",
    "conditions",
    "known_networks",
    "network_named",
    "write_results",
]
