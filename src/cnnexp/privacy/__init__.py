"""Private training: what it has spent, and its noise. The packages needed come with the extra ``privacy``."""

from cnnexp.privacy.accounting import ADJACENCY, Accountant, History, Mechanism
from cnnexp.privacy.extra import PrivacyExtraError
from cnnexp.privacy.noise import GaussianNoise, SecureNoise, SeededNoise

__all__ = [
    "ADJACENCY",
    "Accountant",
    "GaussianNoise",
    "History",
    "Mechanism",
    "PrivacyExtraError",
    "SecureNoise",
    "SeededNoise",
]
