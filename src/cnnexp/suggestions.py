"""What somebody may have meant who wrote a name that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], least: float = 0.6) -> str | None:
    """The known name nearest to ``name``; None if none is as alike as ``least``, in 0…1."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=least)
    return close[0] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the known name nearest to ``name``; empty if none is near.

    Of dotted names one in the same place is looked for first, then the same word in another place:
    ``lr`` → ``optimizer.lr``.
    """
    known = list(known)
    parent, _, leaf = name.rpartition(".")
    places = [k.rpartition(".") for k in known]
    close = nearest(leaf, [k for above, _, k in places if above == parent])
    if close:
        return f" Did you mean '{parent + '.' if parent else ''}{close}'?"
    others = [f"{above}.{k}" for above, _, k in places if k == leaf]
    part = name.partition(".")[0]
    if leaf == "_target_" and part in {k.partition(".")[0] for k in known}:
        others = [k for k in others if k.startswith(f"{part}.")]  # a class belongs to its part
    close = nearest(name, others, least=0.0)
    return f" Did you mean '{close}'?" if close else ""
