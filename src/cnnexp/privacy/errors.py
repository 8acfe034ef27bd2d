"""What is wrong with a private training."""

from __future__ import annotations

__all__ = ["PrivacyError"]


class PrivacyError(RuntimeError):
    """A promise of privacy that cannot be kept, or a part that is missing to keep it."""
