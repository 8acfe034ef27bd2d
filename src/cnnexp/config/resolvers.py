"""OmegaConf resolvers that conf/ uses."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from cnnexp.config.compose import plain_config
from cnnexp.runs import config_hash


def register_resolvers() -> None:
    """Register ``${job_id:}``: the hash of the job's own resolved config, see ``config_hash``."""
    OmegaConf.register_new_resolver("job_id", _job_id, replace=True)


def _job_id(*, _root_: DictConfig) -> str:
    return config_hash(plain_config(_root_))
