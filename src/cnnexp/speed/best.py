"""Whether a network trains faster with ours than in torch's best way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cnnexp.speed.result import Measured

__all__ = ["EQUAL", "Comparison", "compare"]

EQUAL = 0.02  # a ratio that is nearer to 1 is no difference


class Comparison(NamedTuple):
    """Torch's fastest way and ours, of one thing.

    Attributes:
        torch: The fastest of torch's ways.
        ours: The fastest of ours.
    """

    torch: Measured
    ours: Measured

    @property
    def ratio(self) -> float:
        """Our median time divided by torch's."""
        return self.ours.milliseconds["full"] / self.torch.milliseconds["full"]

    @property
    def saved_ratio(self) -> float:
        """What we keep for the backward divided by what torch keeps, each in its way."""
        assert self.ours.saved_megabytes is not None
        assert self.torch.saved_megabytes is not None
        return self.ours.saved_megabytes / max(self.torch.saved_megabytes, 1e-9)

    @property
    def verdict(self) -> str:
        """``faster``, ``slower``, or ``the same``."""
        if abs(self.ratio - 1) <= EQUAL:
            return "the same"
        return "faster" if self.ratio < 1 else "slower"


def compare(rows: Sequence[Measured]) -> Comparison:
    """The fastest of torch's ways and the fastest of ours among ``rows``, which are of the same thing.

    Raises:
        ValueError: There is no figure of the one or the other.
    """
    known = [row for row in rows if "full" in row.milliseconds]
    theirs = [row for row in known if row.way.startswith("torch")]
    ours = [row for row in known if not row.way.startswith("torch")]
    if not theirs or not ours:
        raise ValueError(
            f"{rows[0].what if rows else 'nothing'}: needs a way of torch and one of ours"
        )
    return Comparison(
        *(min(each, key=lambda row: row.milliseconds["full"]) for each in (theirs, ours))
    )
