"""Regularisers, one method a file: a pure function and a thin class."""

from cnnexp.regularization.l2 import L2, l2_penalty
from cnnexp.regularization.penalty import Penalty, penalised_weights

__all__ = ["L2", "Penalty", "l2_penalty", "penalised_weights"]
