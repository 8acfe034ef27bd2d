"""Which of the processes that train one network together this one is, as its environment says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

# of torchrun, and of the processes that cnnexp starts itself; of SLURM's srun
_NAMES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_TASKS_PER_NODE"),
)


@dataclass(frozen=True)
class ProcessRank:
    """A process among those of its run.

    Attributes:
        rank: From 0.
        ranks: How many there are.
        local_rank: From 0, on this machine.
        local_ranks: How many are on this machine.
    """

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int

    @property
    def nodes(self) -> int:
        """How many machines there are."""
        return self.ranks // self.local_ranks


def process_rank(environment: Mapping[str, str] = os.environ) -> ProcessRank | None:
    """The place of this process; None if it was started alone."""
    for names in _NAMES:
        if names[0].startswith("SLURM") and environment.get("SLURM_STEP_ID", "") in ("", "batch"):
            continue  # within an allocation, but not started by srun
        if all(environment.get(name, "").isdigit() for name in names[:3]):
            rank, ranks, local = (int(environment[name]) for name in names[:3])
            each = re.match(r"\d+", environment.get(names[3], ""))  # SLURM writes 2(x3)
            return (
                ProcessRank(rank, ranks, local, int(each[0]) if each else ranks)
                if ranks > 1
                else None
            )
    return None
