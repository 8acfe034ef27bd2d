"""Measure how much memory a forward pass keeps, how much a step takes at its most, and how much is free."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from cnnexp.ops.torch_internals import as_it_is

_PROCESS, _MEMINFO, _GROUPS = Path("/proc/self"), Path("/proc/meminfo"), Path("/sys/fs/cgroup")
_FORGET_PEAK = "5"  # what proc(5) has to be told, so that VmHWM begins anew


def without_graph(tensor: Tensor) -> Tensor:
    """``tensor`` for a hook that packs what is kept.

    Packed as it is, the output of an op that keeps its own output, as of tanh, would hold the node that holds
    it: neither is ever freed, with all that comes before them, unless a backward follows.
    """
    return tensor.detach()


def saved_bytes(forward: Callable[[], Tensor], without: Iterable[Tensor] = ()) -> int:
    """The bytes of all tensors that ``forward`` saves for the backward, each memory counted once.

    Args:
        forward: The function; it returns the tensor from which the backward would start.
        without: Tensors that exist anyway and are not counted, such as the parameters.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in without}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return without_graph(tensor)

    with torch.autograd.graph.saved_tensors_hooks(keep, as_it_is):
        output = forward()
    del output
    return sum(kept.values())


def peak_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """How far ``work`` raises the memory that is held, at its most, above what was held before it.

    On CUDA devices the memory is that of torch's tensors. Elsewhere it is the process's resident memory, as
    Linux counts it (VmHWM); what earlier work has freed is returned to the system first. None on other
    systems.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        _return_freed()
        (_PROCESS / "clear_refs").write_text(_FORGET_PEAK)
        before = _resident("VmRSS")
        work()
        return _resident("VmHWM") - before
    except (OSError, AttributeError, KeyError):  # no Linux, no right to it
        return None


def own_bytes() -> int | None:
    """The resident memory of this process without pages of files, which the system may drop; None where
    Linux does not count it. What earlier work has freed is returned to the system first.
    """
    try:
        _return_freed()
        return _resident("RssAnon")
    except (OSError, AttributeError, KeyError):
        return None


def _return_freed() -> None:
    """Return to the system what the process holds free; nothing happens where there is no glibc."""
    with suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident(name: str) -> int:
    lines = (_PROCESS / "status").read_text(encoding="ascii").splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return 1024 * int(values[name].split()[0])


def free_bytes() -> int | None:
    """How many bytes of main memory this process may still take: the least of what the machine has free and
    what its control group (a container's, a cluster job's) leaves. None where Linux does not say. What
    earlier work has freed is returned to the system first.
    """
    _return_freed()
    free = [_available(), *_left_by_group()]
    return min((each for each in free if each is not None), default=None)


def _available() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        values = dict(line.split(":", 1) for line in lines)
        return 1024 * int(values["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None


def _left_by_group() -> Iterator[int]:
    """What each control group above this process leaves, in version 2 of the interface or in version 1."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most, now = ((_GROUPS / name).read_text(encoding="ascii") for name in (limit, used))
            yield max(0, int(most) - int(now))
        except (OSError, ValueError):  # there is none, or it says "max"
            continue
