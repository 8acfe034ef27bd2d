"""The destinations of a job's log lines: the terminal, and the file train.log in its folder."""

from __future__ import annotations

import logging.config
from pathlib import Path

import yaml

from cnnexp.config import conf_dir


def log_to(folder: Path | None, *, terminal: bool = True) -> None:
    """Log as ``cnnexp.train`` does: on the ``terminal``, and to train.log in ``folder`` if there is one."""
    text = (conf_dir() / "hydra" / "job_logging" / "cnnexp.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    handlers = settings["handlers"]
    if folder is None:
        del handlers["file"]
        settings["root"]["level"] = "ERROR"
    else:
        handlers["file"]["filename"] = str(folder / "train.log")
    if not terminal:
        del handlers["console"]
    settings["root"]["handlers"] = list(handlers)
    logging.config.dictConfig(settings)
