"""What a run does for ``debug=…`` beside its training."""

from cnnexp.training.debugging.overfit import OverfitCheck
from cnnexp.training.debugging.profile import LayerProfile

__all__ = ["LayerProfile", "OverfitCheck"]
