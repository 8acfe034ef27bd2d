"""Whether a network trains faster with ours than in torch's best way; whether ``auto`` keeps its promise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cnnexp.speed.result import Measured

__all__ = ["EQUAL", "PROMISE", "Comparison", "broken_promises", "compare", "compare_by_precision"]

EQUAL = 0.02  # a ratio that is nearer to 1 is no difference
# auto takes at most this share of the time of torch in the same precision and layout
PROMISE = 1.02
_LOW = "bfloat16"  # in the name of a way that computes in it


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
    def peak_ratio(self) -> float | None:
        """Our peak memory divided by torch's, each in its way; None if unknown."""
        if self.ours.peak_megabytes is None or not self.torch.peak_megabytes:
            return None
        return self.ours.peak_megabytes / self.torch.peak_megabytes

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


def compare_by_precision(rows: Sequence[Measured]) -> dict[str, Comparison]:
    """The comparison in each precision in which there is a way of torch and one of ours.

    ``rows`` are of the same thing; those with "bfloat16" in the name of their way are in it, the others in
    the precision of the network.
    """
    found = {}
    low = [row for row in rows if _LOW in row.way]
    for name, each in {"full": [row for row in rows if row not in low], _LOW: low}.items():
        try:
            found[name] = compare(each)
        except ValueError:
            continue
    return found


def broken_promises(rows: Sequence[Measured]) -> list[Measured]:
    """Those of ``rows`` that are ways of ``auto`` slower than the promise, beyond what chance may do.

    The promise is :data:`PROMISE` times the step of torch in the same precision and layout, at most; it is
    broken where the interval of the rounds' ratios lies above that. Less than 5 rounds break none.
    """
    return [
        row
        for row in rows
        if row.way.startswith("cnnexp auto") and row.paired is not None and row.paired[1] > PROMISE
    ]
