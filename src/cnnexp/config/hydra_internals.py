"""What cnnexp uses of Hydra's private interface; the sole file that does.

Tried with hydra-core 1.3.8.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from hydra import version
from hydra._internal.utils import _run_hydra

from cnnexp.config.compose import conf_dir

__all__ = ["hand_to_hydra"]


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
