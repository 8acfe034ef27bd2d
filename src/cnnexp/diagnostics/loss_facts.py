"""What the diagnosis has to know of a loss, which may be anybody's, before the first step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_SHIFT = 3.0  # added to all outputs, of which a softmax takes no notice


def loss_facts(
    loss: Callable[[Tensor, Tensor], Tensor], classes: int, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Facts of a loss of outputs (N, ``classes``) and labels (N,), asked with numbers that are of no data.

    Returns:
        ``softmax``: whether it takes the outputs for logits, as a loss with a softmax in it does: adding a
        number to all of them changes nothing; ``chance``: the loss where all outputs are equal, ln(classes)
        for the cross-entropy, where that is a positive number. Only ``softmax``, False, for a loss that
        refuses such outputs.
    """
    labels = torch.arange(classes, device=device)
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(classes, classes, generator=generator).to(device)
    try:
        with torch.no_grad():
            chance = float(loss(torch.zeros_like(outputs), labels))
            seen, shifted = float(loss(outputs, labels)), float(loss(outputs + _SHIFT, labels))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return {"softmax": False}
    facts: dict[str, Any] = {"softmax": math.isclose(seen, shifted, rel_tol=1e-3)}
    return facts | ({"chance": chance} if math.isfinite(chance) and chance > 0 else {})
