"""What cnnexp uses of Hydra's private interface; the sole file that does.

Tried with hydra-core 1.3.8.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.utils import _run_hydra, run_and_report
from hydra.core.utils import configure_log, run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, read_write

from cnnexp.config.compose import conf_dir

__all__ = ["hand_to_hydra", "run_composed"]


def hand_to_hydra(
    parser: argparse.ArgumentParser, flags: argparse.Namespace, task: Callable[[Any], Any]
) -> None:
    """Run the command ``task`` as ``hydra.main`` does, which would read ``sys.argv`` instead of ``flags``.

    The public ``hydra.main`` was looked at: it parses ``sys.argv`` itself and takes no other arguments.

    Args:
        parser: That of ``cnnexp.config.arguments.read_arguments``.
        flags: What it read, changed as the command needs it.
        task: Called with the config of each job.
    """
    version.setbase("1.3")
    _run_hydra(
        args=flags,
        args_parser=parser,
        task_function=task,
        config_path=str(conf_dir()),
        config_name="train",
    )


def run_composed(config: DictConfig, folder: str, task: Callable[[Any], Any]) -> None:
    """Run ``task`` as ``hydra.main`` does a single job, of a config that is composed already.

    Hydra's logging, environment variables, working folder and callbacks are those of ``config``. The
    public ``hydra.main`` was looked at: it composes twice more, and knows no folder beforehand.

    Args:
        config: With Hydra's own node.
        folder: The run's, in place of ``hydra.run.dir``.
        task: Called with the config, Hydra's node left out.
    """

    def run() -> None:
        name = config.hydra.job.config_name
        with read_write(config.hydra):
            config.hydra.mode, config.hydra.run.dir = RunMode.RUN, folder
            if config.hydra.job.name == name:  # nobody named it: hydra.main does, by the command
                config.hydra.job.name = "train"
        configure_log(config.hydra.hydra_logging, config.hydra.verbose)
        callbacks = Callbacks(config)
        callbacks.on_run_start(config=config, config_name=name)
        nobody: Any = None  # launchers alone compose, and there is none
        context = HydraContext(config_loader=nobody, callbacks=callbacks)
        returned = run_job(task, config, "hydra.run.dir", None, context)
        callbacks.on_run_end(config=config, config_name=name, job_return=returned)
        _ = returned.return_value  # raises what the task raised

    run_and_report(run)
