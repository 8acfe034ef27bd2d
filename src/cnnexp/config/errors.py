"""Misuse: what a user can mend by changing the command or the config."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["ConfigError", "did_you_mean"]


class ConfigError(Exception):
    """A config that cannot work; the message names the value, what is allowed and the next step."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the known name nearest to ``name``; empty if none is near."""
    parent, _, leaf = name.rpartition(".")
    places = [k.rpartition(".") for k in known]
    siblings = [k for above, _, k in places if above == parent]
    close = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6)
    if close:
        return f" Did you mean '{parent + '.' if parent else ''}{close[0]}'?"
    # the right word in the wrong place: lr → optimizer.lr
    close = [above + "." + k for above, _, k in places if k == leaf]
    return f" Did you mean '{close[0]}'?" if close else ""
