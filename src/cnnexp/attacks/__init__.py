"""How much a trained network gives away about its images: membership inference, and audits of ε."""

from cnnexp.attacks.membership import likelihood_ratios, loss_scores
from cnnexp.attacks.one_run import (
    Audit,
    Scorer,
    Training,
    audit_scores,
    audit_training,
    epsilon_bound,
    p_value,
    wrong_labels,
)
from cnnexp.attacks.roc import Rate, Roc, roc

__all__ = [
    "Audit",
    "Rate",
    "Roc",
    "Scorer",
    "Training",
    "audit_scores",
    "audit_training",
    "epsilon_bound",
    "likelihood_ratios",
    "loss_scores",
    "p_value",
    "roc",
    "wrong_labels",
]
