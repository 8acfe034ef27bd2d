"""Epochs as cnnexp counts them, from 1, where Lightning says how many are done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L

from cnnexp.runs.epochs import epoch_after


def epoch_of(trainer: L.Trainer) -> int:
    """The epoch that is under way, counted from 1."""
    return epoch_after(trainer.current_epoch)


def epoch_of_weights(checkpoint: Mapping[str, Any]) -> int | None:
    """The epoch, counted from 1, that the weights of a checkpoint are of; None if it does not say.

    best.ckpt is written while its epoch is under way, last.ckpt (which has a part ``"cnnexp"``) between two.
    """
    done = checkpoint.get("epoch")
    if type(done) is not int:
        return None
    return done if "cnnexp" in checkpoint else epoch_after(done)
