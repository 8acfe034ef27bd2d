"""Train without giving the data away: DP-SGD from per-sample gradients that the ops' own formulas give."""

from cnnexp.privacy.accounting import ADJACENCY, Accountant, History, Mechanism
from cnnexp.privacy.clipping import CLIPPINGS, Clipping
from cnnexp.privacy.errors import PrivacyError
from cnnexp.privacy.extra import PrivacyExtraError
from cnnexp.privacy.gradient import PrivateGradient
from cnnexp.privacy.independence import check_independence
from cnnexp.privacy.noise import GaussianNoise, SecureNoise, SeededNoise
from cnnexp.privacy.settings import PrivacySettings

__all__ = [
    "ADJACENCY",
    "CLIPPINGS",
    "Accountant",
    "Clipping",
    "GaussianNoise",
    "History",
    "Mechanism",
    "PrivacyError",
    "PrivacyExtraError",
    "PrivacySettings",
    "PrivateGradient",
    "SecureNoise",
    "SeededNoise",
    "check_independence",
]
