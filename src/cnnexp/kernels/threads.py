"""How many threads torch and the CPU kernels compute with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["follow_torch", "offered_threads", "use_threads", "with_threads"]


def offered_threads() -> int:
    """How many threads torch and the kernels can both use in this process."""
    import numba

    return min(os.cpu_count() or 1, numba.config.NUMBA_NUM_THREADS)  # pyright: ignore[reportAttributeAccessIssue]


def follow_torch() -> None:
    """Let the kernels compute with as many threads as torch, unless NUMBA_NUM_THREADS says another number.

    A program that has called ``torch.set_num_threads``, or has ``OMP_NUM_THREADS``, as each process of
    ``torchrun``, wants no more of them.
    """
    import numba

    settings: Any = numba.config
    if settings.NUMBA_NUM_THREADS == settings.NUMBA_DEFAULT_NUM_THREADS:
        numba.set_num_threads(min(torch.get_num_threads(), settings.NUMBA_NUM_THREADS))


def use_threads(count: int) -> None:
    """Let torch and the kernels compute with ``count`` threads from now on.

    Raises:
        ValueError: ``count`` is not within 1 and :func:`offered_threads`.

    Examples:
        >>> import torch
        >>> from cnnexp.kernels.threads import with_threads
        >>> with with_threads(1):
        ...     torch.get_num_threads()
        1
    """
    import numba

    # numba's first: when it starts its threads, it sets the number of torch's to that of all
    numba.set_num_threads(count)
    torch.set_num_threads(count)


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """A context in which they compute with ``count`` threads; see :func:`use_threads`."""
    import numba

    of_torch, of_numba = torch.get_num_threads(), numba.get_num_threads()
    use_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(of_numba)
        torch.set_num_threads(of_torch)
