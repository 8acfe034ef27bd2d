"""Which job a config describes: the same job has the same hash, wherever it runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cnnexp.runs.files import plain
from cnnexp.runs.keys import identity_of


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that identify the job of a resolved ``config``.

    Left out are paths, the run's name, the launcher's settings, what ``backward=auto`` chose, and what
    changes no number (see ``cnnexp.runs.keys``); the order of keys does not matter.
    """
    text = json.dumps(plain(identity_of(config)), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
