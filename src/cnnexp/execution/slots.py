"""The resources that a launcher's jobs share: GPUs and processor threads."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


class GPUPool:
    """Assign GPUs to jobs, each GPU to at most ``per_gpu`` jobs at a time.

    Args:
        ids: The ids of the GPUs, as in ``CUDA_VISIBLE_DEVICES``.
        per_gpu: Jobs per GPU, ≥ 1.
    """

    def __init__(self, ids: Sequence[str], per_gpu: int = 1) -> None:
        self.ids, self.per_gpu = tuple(ids), per_gpu
        self._taken: Counter[str] = Counter()

    def take(self, count: int) -> tuple[str, ...] | None:
        """Reserve ``count`` different GPUs, those with the fewest jobs first; None if too few are free."""
        free = [gpu for gpu in self.ids if self._taken[gpu] < self.per_gpu]
        if len(free) < count:
            return None
        taken = tuple(sorted(free, key=lambda gpu: self._taken[gpu])[:count])
        self._taken.update(taken)
        return taken

    def give_back(self, ids: Sequence[str]) -> None:
        """Release the GPUs ``ids``."""
        self._taken.subtract(ids)


def visible_gpus() -> list[str]:
    """The ids of this machine's GPUs, found without initialising CUDA in this process."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def gpus_of(accelerator: Mapping[str, Any], pool: int) -> int:
    """The number of GPUs that a job with this ``accelerator`` needs, where the launcher shares
    ``pool`` of them.
    """
    name, devices = accelerator.get("name"), accelerator.get("devices", 1)
    if pool == 0 or name not in ("auto", "gpu", "ddp", "fsdp"):
        return 0
    return pool if devices == "auto" else int(devices)


def cores() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_caps(threads: int) -> dict[str, str]:
    """Environment variables that limit a new process to ``threads`` processor threads."""
    return dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
