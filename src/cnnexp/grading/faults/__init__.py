"""The wrong formulas: what an op and its gradients become by each known mistake, alone or with others."""

from cnnexp.grading.faults.table import compute, faults_of

__all__ = ["compute", "faults_of"]
