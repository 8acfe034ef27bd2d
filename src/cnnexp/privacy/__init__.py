"""Private training: what it has spent, and its noise. The packages needed come with the extra ``privacy``."""

from cnnexp.privacy.accounting import ADJACENCY, Accountant, History, Mechanism
from cnnexp.privacy.extra import PrivacyExtraError

__all__ = ["ADJACENCY", "Accountant", "History", "Mechanism", "PrivacyExtraError"]
