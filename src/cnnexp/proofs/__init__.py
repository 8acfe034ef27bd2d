"""Proofs of gradients: random cases, finite differences, agreement with torch."""

from cnnexp.proofs.battery import BATTERY, QUICK, Battery, run_battery
from cnnexp.proofs.cases import CASES, SMOOTH_CASES, Case
from cnnexp.proofs.check import check
from cnnexp.proofs.report import ASPECTS, Report
from cnnexp.proofs.torch_twins import TWINS, called

__all__ = [
    "ASPECTS",
    "BATTERY",
    "CASES",
    "QUICK",
    "SMOOTH_CASES",
    "TWINS",
    "Battery",
    "Case",
    "Report",
    "called",
    "check",
    "run_battery",
]
