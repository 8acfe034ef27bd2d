"""What of ``data`` follows from a cross-validation, where the command line does not say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cnnexp.config.arguments import key_of

_FOLLOWS_SEED = "${seed}"


def with_folds(
    config: dict[str, Any], split_seed: object, overrides: Sequence[str]
) -> dict[str, Any]:
    """``config`` with what ``data.folds`` takes the place of.

    The fold is what validates, so that a data set's default ``val_size`` becomes null. The split's seed,
    which is the run's by default, becomes 0: the folds are the same for every setting and every seed. What
    ``overrides`` say of either stays, and is checked with the rest.

    Args:
        config: Resolved, in plain types.
        split_seed: What ``data.split_seed`` was before it was resolved; None if it was not there.
        overrides: Those of the command line.
    """
    data = config.get("data")
    if not isinstance(data, Mapping) or data.get("folds") is None:
        return config
    said = {key_of(override) for override in overrides}
    settled = dict(data)
    if "data.val_size" not in said:
        settled["val_size"] = None
    if split_seed in (None, _FOLLOWS_SEED) and "data.split_seed" not in said:
        settled["split_seed"] = 0
    return {**config, "data": settled}
