"""Train without giving the data away: DP-SGD from per-sample gradients that the ops' own formulas give."""

from cnnexp.privacy.clipping import CLIPPINGS, Clipping
from cnnexp.privacy.errors import PrivacyError
from cnnexp.privacy.gradient import PrivateGradient
from cnnexp.privacy.settings import PrivacySettings

__all__ = ["CLIPPINGS", "Clipping", "PrivacyError", "PrivacySettings", "PrivateGradient"]
