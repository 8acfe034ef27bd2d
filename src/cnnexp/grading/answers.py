"""What a piece of work answers to a case, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnnexp.grading.cases import Array


@dataclass
class Answer:
    """What a submission gave for a case: output and gradients as arrays, and what it said about itself."""

    y: Array | None = None
    gradients: dict[str, Array | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def as_array(value: Any) -> Array | None:
    """A tensor, array or number as an array; None stays None."""
    if value is None:
        return None
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    return np.array(value, dtype=np.float64)
