"""What is wrong with a network whose samples cannot be told apart."""

from __future__ import annotations

__all__ = ["PerSampleError"]


class PerSampleError(RuntimeError):
    """The gradient of each sample cannot be had from this network, batch or loss."""
