"""Check that a job can run, before any part of it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from cnnexp.config import ConfigError
from cnnexp.config.interpolation import blamed
from cnnexp.config.targets import allowed_prefixes
from cnnexp.postponed import quick_imports
from cnnexp.runs import process_rank

if TYPE_CHECKING:
    from cnnexp.training import TrainingJob


def checked_job(
    composed: DictConfig,
    config: Mapping[str, Any],
    overrides: Sequence[str],
    elsewhere: bool = False,
    resumed: bool = False,
) -> TrainingJob:
    """The job of ``config``, each part of which has been made once as a check.

    Args:
        composed: The Hydra config from which ``config`` was resolved.
        config: The resolved config in plain types.
        overrides: The overrides on the command line.
        elsewhere: Whether the job is to run on other machines and not on this one.
        resumed: Whether it has a checkpoint to resume from.

    Raises:
        ConfigError: Something in it cannot work, or its data is not available.
        DataFileError: A data file is damaged.
    """
    with quick_imports():
        from cnnexp.config.accelerator import check_nodes
        from cnnexp.config.build import build_job, check_job
        from cnnexp.data import DataUnavailableError
        from cnnexp.training import ALONE, connect_ranks

    extra = allowed_prefixes(overrides)
    try:
        job = build_job(config, extra, elsewhere=elsewhere)
    except ConfigError as error:
        raise blamed(error, composed) from error
    if not elsewhere:
        check_nodes(job.parallel)
    ranks = ALONE if process_rank() is None else connect_ranks(job.parallel)
    if not ranks.first:
        ranks.from_first(
            None
        )  # the first rank loads, and maybe downloads, the data before the others
    try:
        check_job(job, extra, resumed=resumed)
    except DataUnavailableError as error:
        raise ConfigError(str(error)) from error
    if ranks.first:
        ranks.from_first(None)
    return job
