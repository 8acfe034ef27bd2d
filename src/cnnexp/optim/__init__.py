"""Learning-rate schedules (torch's own optimisers are used as they are)."""

from cnnexp.optim.schedules import cosine

__all__ = ["cosine"]
