"""The learning-rate range test: one short training whose rate rises, and what its losses suggest."""

from cnnexp.lr_range.curve import LossCurve, Ramp, Suggestion, suggest
from cnnexp.lr_range.range_test import RangeTestError, check_testable, run_range_test

__all__ = [
    "LossCurve",
    "Ramp",
    "RangeTestError",
    "Suggestion",
    "check_testable",
    "run_range_test",
    "suggest",
]
