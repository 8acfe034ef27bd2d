"""Which job a config describes: the same job has the same hash, wherever it runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cnnexp.runs.files import plain

__all__ = ["config_hash"]

# Where things lie and what the run is called do not change what is computed.
_NOT_IDENTITY = ("output_dir", "name", "hydra")
_NOT_IDENTITY_OF_DATA = ("root",)


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that identify the job of a resolved ``config``.

    Paths, the run's name and the launcher's settings are left out; the order of keys does not
    matter.
    """
    kept = {key: value for key, value in config.items() if key not in _NOT_IDENTITY}
    if isinstance(data := kept.get("data"), Mapping):
        kept["data"] = {key: v for key, v in data.items() if key not in _NOT_IDENTITY_OF_DATA}
    text = json.dumps(plain(kept), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
