"""Which job a config describes: the same job has the same hash, wherever it runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cnnexp.runs.files import plain

__all__ = ["config_hash"]

# Where things lie and what the run is called do not change what is computed.
_NOT_IDENTITY = ("output_dir", "name", "sweep", "hydra")
# Which algorithms backward=auto took: another machine may take others for the same job. How many
# processes make batches, and how often a checkpoint is written, changes no number. What is looked at
# neither, but what diagnostics=full has to tell is another result.
_NOT_IDENTITY_OF = {
    "data": ("root", "num_workers"),
    "backward": ("layers",),
    "checkpoint": ("every_n_steps",),
    "diagnostics": ("every", "landscape_every", "noise_parts", "sharpness_iterations", "health"),
}
# Keys that came later: at these values the job is the one that it was without them.
_AS_BEFORE = {"on_nan": "stop", "test": True, "diagnostics": {"name": "basic"}}


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that identify the job of a resolved ``config``.

    Left out are paths, the run's name, the launcher's settings, what ``backward=auto`` chose, and what
    changes no number; the order of keys does not matter.
    """
    kept = {key: value for key, value in config.items() if key not in _NOT_IDENTITY}
    for part, left_out in _NOT_IDENTITY_OF.items():
        if isinstance(node := kept.get(part), Mapping):
            kept[part] = {key: value for key, value in node.items() if key not in left_out}
    kept = {key: value for key, value in kept.items() if _AS_BEFORE.get(key) != value}
    text = json.dumps(plain(kept), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
