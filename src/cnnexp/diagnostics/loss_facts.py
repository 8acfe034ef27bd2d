"""What the diagnosis has to know of a loss, which may be anybody's, before the first step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from cnnexp.nn import left_as_found

_SHIFT = 3.0  # added to all outputs, of which a softmax takes no notice


def loss_facts(loss: nn.Module, classes: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Facts of a loss of outputs (N, ``classes``) and labels (N,), asked with numbers that are of no data.

    Returns:
        ``softmax``: whether it takes the outputs for logits, as a loss with a softmax in it does: adding a
        number to all of them changes nothing; ``chance``: the loss where all outputs are equal, ln(classes)
        for the cross-entropy, where that is a positive number. Only ``softmax``, False, for a loss that
        refuses such outputs. The loss is left as it was found, random states included.
    """
    labels = torch.arange(classes, device=device)
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(classes, classes, generator=generator).to(device)
    try:
        with left_as_found(loss), torch.no_grad():
            chance = float(loss(torch.zeros_like(outputs), labels))
            seen, shifted = float(loss(outputs, labels)), float(loss(outputs + _SHIFT, labels))
    except Exception:  # it is anybody's, and takes what its author thought of
        return {"softmax": False}
    facts: dict[str, Any] = {"softmax": math.isclose(seen, shifted, rel_tol=1e-3)}
    return facts | ({"chance": chance} if math.isfinite(chance) and chance > 0 else {})
