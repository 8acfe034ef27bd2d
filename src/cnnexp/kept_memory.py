"""Memory that a process has freed stays its own.

A training step frees its gradients and intermediate images, and the next one allocates the same again. By
default the C library (glibc) returns such memory to the system, which then clears it and hands it out anew,
in pages of 4 KiB, of which each costs an interruption: on a CPU that is a seventh of a step of ResNet-50
and nearly half of one of VGG-11 (docs/performance.md). Kept, it costs nothing. The price is that a process
holds what it once needed until it ends, and a tenth more where tensors of many sizes leave gaps.

Whoever sets one of ``VARIABLES``, which are glibc's own, or its ``GLIBC_TUNABLES`` for malloc, has chosen
otherwise, and that is left as it is. Nothing happens where there is no glibc.

Source: mallopt(3).
"""

from __future__ import annotations

import ctypes
import os

from cnnexp.environment import variable

__all__ = ["VARIABLES", "keep_freed_memory"]

# the variable for processes that begin, the number of the option for this one, and bytes, the first that
# glibc takes
_KEPT = (
    # from which on a tensor is no part of the heap, but of its own and returned in any case; up to glibc
    # 2.34 it may not be more than 32 MiB
    ("MALLOC_MMAP_THRESHOLD_", -3, (1 << 30, 1 << 25)),
    # that may lie free at the end of the heap before they are returned; more than an int has no name
    ("MALLOC_TRIM_THRESHOLD_", -1, (2**31 - 1,)),
)
VARIABLES = tuple(name for name, _, _ in _KEPT)  # that processes which are started inherit


def keep_freed_memory() -> None:
    """Keep freed memory from now on, in this process and in those that it starts.

    A second call has no effect.

    Examples:
        >>> from cnnexp.kept_memory import keep_freed_memory
        >>> keep_freed_memory()
    """
    if any(variable(name) is not None for name in VARIABLES):
        return
    if "glibc.malloc." in (variable("GLIBC_TUNABLES") or ""):
        return
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no glibc
        return
    for name, option, sizes in _KEPT:
        taken = next((each for each in sizes if set_option(option, each)), None)
        if taken is not None:
            os.environ[name] = str(taken)
