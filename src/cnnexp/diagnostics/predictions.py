"""How the network answers on validation images: which classes, and which errors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_MOST = 4000  # images of a validation that are looked at


class Predictions:
    """Counts over the first 4,000 images of one validation, kept on their device."""

    def __init__(self, classes: int) -> None:
        self._classes, self._images = classes, 0
        self._sums: Tensor | None = None
        self._ends: Tensor | None = None

    @property
    def wants_more(self) -> bool:
        """Whether further images are looked at."""
        return self._images < _MOST

    @torch.no_grad()
    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Take in the logits (N, C) and labels (N,) of a batch."""
        if logits.dim() != 2 or not len(labels):
            return
        logits = logits.detach().float()
        answers = logits.argmax(1)
        wrong = answers != labels
        own = logits.gather(1, labels.view(-1, 1))
        above = (logits > own).sum(1) - 1  # classes between the answer and the label
        rank = above.clamp(min=0) / max(1, logits.size(1) - 2)
        counts = torch.bincount(answers, minlength=self._classes).double()
        sums = torch.stack([wrong.double().sum(), (rank * wrong).double().sum()])
        both = torch.cat([sums, counts])
        self._sums = both if self._sums is None else self._sums + both
        ends = torch.stack([logits.min(), -logits.max()])
        self._ends = ends if self._ends is None else torch.minimum(self._ends, ends)
        self._images += len(labels)

    def figures(self) -> dict[str, Any]:
        """What was counted, in plain numbers; empty without an image.

        Returns:
            ``images``; ``wrong``: the share that is misclassified; ``error_rank``: among these, the mean
            place of the label behind the answer, from 0 (always the second choice) to 1 (always the
            last; 0.5 where labels are arbitrary); ``commonest``, ``commonest_share``: the class
            answered most often, and its share; ``least``, ``greatest``: of the logits.
        """
        if self._sums is None or self._ends is None:
            return {}
        least, greatest = self._ends.tolist()
        wrong, ranks, *counts = self._sums.tolist()
        commonest = max(range(len(counts)), key=lambda c: counts[c])
        return {
            "images": self._images,
            "wrong": wrong / self._images,
            "error_rank": ranks / wrong if wrong else 0.0,
            "commonest": commonest,
            "commonest_share": counts[commonest] / self._images,
            "least": least,
            "greatest": -greatest,
        }
