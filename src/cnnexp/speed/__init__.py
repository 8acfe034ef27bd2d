"""Measure speed and memory of training steps and single ops, ours and torch's side by side in one process."""

from cnnexp.speed.best import Comparison, broken_promises, compare, compare_by_precision
from cnnexp.speed.networks import MODELS, known_networks, network_named
from cnnexp.speed.result import Measured, conditions, flat_rows, write_results
from cnnexp.speed.scale import AXES, ScaleSettings, bench_scale, least_value, values_of
from cnnexp.speed.scaled import Scaled, head_of, line_of
from cnnexp.speed.single import SITUATIONS, bench_op
from cnnexp.speed.step import bench_step

__all__ = [
    "AXES",
    "MODELS",
    "SITUATIONS",
    "Comparison",
    "Measured",
    "ScaleSettings",
    "Scaled",
    "bench_op",
    "bench_scale",
    "bench_step",
    "broken_promises",
    "compare",
    "compare_by_precision",
    "conditions",
    "flat_rows",
    "head_of",
    "known_networks",
    "least_value",
    "line_of",
    "network_named",
    "values_of",
    "write_results",
]
