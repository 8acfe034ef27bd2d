"""How epochs are counted: from 1, in everything that cnnexp says and writes.

Lightning, and a position in a checkpoint, say how many epochs are done; status.json does, too. The epoch
that is under way is the next one. Here alone one becomes the other.
"""

from __future__ import annotations


def epoch_after(done: int) -> int:
    """The epoch, counted from 1, that comes after ``done`` ones."""
    return done + 1
