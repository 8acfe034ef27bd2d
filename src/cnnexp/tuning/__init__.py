"""Choose the fastest way of computing: measured, remembered, and pinned to the layers of a network.

The measurements are kept in a file in the user's cache folder (see :mod:`cnnexp.tuning.choices`).
"""

from cnnexp.tuning.auto import recorded_choices, recorded_times
from cnnexp.tuning.compiled import (
    CompileChoice,
    NotCompiledError,
    choose_compiled,
    compiled,
    try_compiled,
)
from cnnexp.tuning.network import StepChoice, choose_algorithms, choose_step, pin_algorithms
from cnnexp.tuning.precision import PrecisionChoice, choose_precision, multiplies_bfloat16

__all__ = [
    "CompileChoice",
    "NotCompiledError",
    "PrecisionChoice",
    "StepChoice",
    "choose_algorithms",
    "choose_compiled",
    "choose_precision",
    "choose_step",
    "compiled",
    "multiplies_bfloat16",
    "pin_algorithms",
    "recorded_choices",
    "recorded_times",
    "try_compiled",
]
