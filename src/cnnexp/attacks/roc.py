"""The receiver operating characteristic of an attack: who is taken for a member, at which price.

The area under the curve and its variance are those of DeLong, DeLong & Clarke-Pearson, "Comparing the Areas
under Two or More Correlated Receiver Operating Characteristic Curves" (1988), by midranks (Sun & Xu, 2014).
The rate at a small false-positive rate is what counts (Carlini et al., 2022): an attack that is sure of a few
members harms these, however little it knows about the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnexp.training.callbacks.pictures import wilson_interval

_Z = 1.959964  # 95 % of the normal distribution, both sides
_TAIL = 0.025  # of a 95 % interval, on either side


@dataclass(frozen=True)
class Rate:
    """The share of the members that are found at one false-positive rate.

    Attributes:
        at: The greatest false-positive rate that is allowed.
        value: The true-positive rate reached.
        low, high: The ends of its 95 % interval (Wilson) at that threshold.
        false_positives: How many non-members are above the threshold.
    """

    at: float
    value: float
    low: float
    high: float
    false_positives: int


@dataclass(frozen=True)
class Roc:
    """The curve of scores, of which the higher ones are taken for members.

    Attributes:
        members: How many members were scored.
        others: How many non-members were scored.
        true_positives: (K,) int64: how many members are at or above each threshold, from 0 to all.
        false_positives: (K,) int64: how many non-members are.
        auc: The area under the curve in [0, 1]; 0.5 for guessing.
        auc_error: The standard error of the area.
    """

    members: int
    others: int
    true_positives: Tensor
    false_positives: Tensor
    auc: float
    auc_error: float

    def auc_interval(self) -> tuple[float, float]:
        """The ends of the area's 95 % interval.

        DeLong's variance is 0 where all members stand on one side of all others. But k of each make k pairs
        that have nothing in common, and an area a puts them all in order with a probability of aᵏ: from this
        follows the interval then. One member, or one other, tells nothing.
        """
        few = min(self.members, self.others)
        if few == 1:
            return 0.0, 1.0
        if self.auc in (0.0, 1.0):
            bound = _TAIL ** (1 / few)
            return (bound, 1.0) if self.auc == 1.0 else (0.0, 1 - bound)
        half = _Z * self.auc_error
        return max(0.0, self.auc - half), min(1.0, self.auc + half)

    def rate_at(self, false_positive_rate: float) -> Rate:
        """The greatest true-positive rate with at most this false-positive rate."""
        allowed = self.false_positives <= math.floor(false_positive_rate * self.others + 1e-9)
        place = int(allowed.nonzero()[-1])
        value = int(self.true_positives[place]) / self.members
        low, high = wilson_interval(value, self.members)
        return Rate(false_positive_rate, value, low, high, int(self.false_positives[place]))

    def as_dict(self) -> dict[str, Any]:
        """The figures as a dictionary for JSON; of the curve its corners, as counts."""
        corners = _corners(self.true_positives, self.false_positives)
        return {
            "members": self.members,
            "non_members": self.others,
            "auc": self.auc,
            "auc_95": list(self.auc_interval()),
            "tpr_at_fpr": [vars(self.rate_at(at)) for at in (0.001, 0.01)],
            "true_positives": self.true_positives[corners].tolist(),
            "false_positives": self.false_positives[corners].tolist(),
        }


def roc(members: Tensor, others: Tensor) -> Roc:
    """The curve of the scores of ``members`` (M,) and of non-members, ``others`` (N,).

    Raises:
        ValueError: There are no members, no others, or a score is NaN.

    Examples:
        >>> import torch
        >>> curve = roc(torch.tensor([3.0, 2.0]), torch.tensor([1.0, 2.0]))
        >>> curve.auc
        0.875
    """
    members, others = members.double(), others.double()
    if not len(members) or not len(others) or bool(torch.cat([members, others]).isnan().any()):
        raise ValueError(
            f"{len(members)} members and {len(others)} non-members: need one of each at least, and scores "
            f"that are numbers"
        )
    scores, counts = torch.cat([members, others]).unique(return_counts=True)  # ascending
    of_members = torch.bincount(torch.searchsorted(scores, members), minlength=len(scores))
    nothing = torch.zeros(1, dtype=torch.int64)
    true = torch.cat([nothing, of_members.flip(0).cumsum(0)])
    false = torch.cat([nothing, (counts - of_members).flip(0).cumsum(0)])
    area, error = _delong(members, others)
    return Roc(len(members), len(others), true, false, area, error)


def _delong(members: Tensor, others: Tensor) -> tuple[float, float]:
    """The area and its standard error; the latter is 0 with one member or one other."""
    m, n = len(members), len(others)
    ranks = _midranks(torch.cat([members, others]))
    above = (ranks[:m] - _midranks(members)) / n  # of each member: the share of others below it
    below = 1 - (ranks[m:] - _midranks(others)) / m  # of each other: the share of members above it
    area = float(above.mean())
    if min(m, n) == 1:
        return area, 0.0
    return area, math.sqrt(float(above.var()) / m + float(below.var()) / n)


def _midranks(values: Tensor) -> Tensor:
    """The rank of each value from 1; equal values share the mean of their ranks."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[place]


def _corners(true: Tensor, false: Tensor) -> Tensor:
    """The indices of the points at which a curve of steps changes its direction, ends included."""
    up, right = true.diff(), false.diff()
    turns = (up[1:] * right[:-1] != up[:-1] * right[1:]).nonzero().flatten() + 1
    return torch.cat([torch.tensor([0]), turns, torch.tensor([len(true) - 1])])
