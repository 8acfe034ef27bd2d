"""Memory that a process has freed stays its own, and large tensors come in huge pages.

A training step frees its gradients and intermediate images, and the next one allocates the same again. By
default the C library (glibc) returns such memory to the system, which then clears it and hands it out anew,
in pages of 4 KiB, of which each costs an interruption: on a CPU that is a sixth of a step of ResNet-50 and
two fifths of one of VGG-11 (docs/performance.md). Kept, it costs nothing; in pages of 2 MiB a fraction. The
price is that a process holds what it once needed until it ends.

Whoever sets one of the variables of ``_KEPT``, glibc's own, or torch's ``THP_MEM_ALLOC_ENABLE`` has chosen
otherwise, and that is left as it is. Nothing happens where there is no glibc, or no huge pages for those who
ask for them (``/sys/kernel/mm/transparent_hugepage/enabled`` says ``never``).

Source: mallopt(3); madvise(2), MADV_HUGEPAGE.
"""

from __future__ import annotations

import ctypes
import os

from cnnexp.environment import variable

__all__ = ["keep_freed_memory"]

_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch reads it as it makes its first tensor
# the variable for processes that begin, the number of the option for this one, and bytes
_KEPT = (
    # what may lie free at the end of the heap before it is returned; more than an int has no name
    ("MALLOC_TRIM_THRESHOLD_", -1, 2**31 - 1),
    # larger tensors are never part of the heap, in which they would leave gaps: glibc's own limit
    ("MALLOC_MMAP_THRESHOLD_", -3, 1 << 25),
)


def keep_freed_memory() -> None:
    """Keep freed memory from now on, in this process and in those that it starts.

    Huge pages come with it if it is called before torch makes its first tensor. A second call has no effect.

    Examples:
        >>> from cnnexp.kept_memory import keep_freed_memory
        >>> keep_freed_memory()
    """
    if variable(_HUGE_PAGES) is None:
        os.environ[_HUGE_PAGES] = "1"
    if any(variable(name) is not None for name, _, _ in _KEPT):
        return
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no glibc
        return
    for name, option, bytes_ in _KEPT:
        os.environ[name] = str(bytes_)
        set_option(option, bytes_)
