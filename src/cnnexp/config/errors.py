"""Misuse: what a user can mend by changing the command or the config."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["ConfigError", "did_you_mean"]


class ConfigError(Exception):
    """A config that cannot work; the message names the value, what is allowed and the next step."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the known name nearest to ``name``; empty if none is near."""
    known = list(known)
    parent, _, leaf = name.rpartition(".")
    places = [k.rpartition(".") for k in known]
    siblings = [k for above, _, k in places if above == parent]
    close = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6)
    if close:
        return f" Did you mean '{parent + '.' if parent else ''}{close[0]}'?"
    # the right word in the wrong place: lr → optimizer.lr; but a class belongs to its part
    others = [f"{above}.{k}" for above, _, k in places if k == leaf]
    part = name.partition(".")[0]
    if leaf == "_target_" and part in {k.partition(".")[0] for k in known}:
        others = [k for k in others if k.startswith(f"{part}.")]
    close = difflib.get_close_matches(name, others, n=1, cutoff=0.0)
    return f" Did you mean '{close[0]}'?" if close else ""
