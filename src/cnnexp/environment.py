"""The environment variables that cnnexp reads: one that is set to nothing counts as unset.

``CNNEXP_DATA=`` in a shell, in a job script or in a container's settings is how people take a variable
back. ``CUDA_VISIBLE_DEVICES`` alone is read elsewhere, since CUDA takes an empty one for "no GPU".
"""

from __future__ import annotations

import os


def variable(name: str, default: str | None = None) -> str | None:
    """The value of the environment variable ``name``; ``default`` where it is unset or blank."""
    value = os.environ.get(name, "")
    return value if value.strip() else default
