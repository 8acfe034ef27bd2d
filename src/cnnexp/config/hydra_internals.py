"""What cnnexp uses of Hydra's private interface; no other file of the package does.

Each use is one function, which says what public way was looked for. Tried with hydra-core 1.3.8. OmegaConf is
used by its public interface alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_hydra, create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.initialize import get_gh_backup, restore_gh_from_backup

__all__ = [
    "Hydra",
    "flags_parser",
    "hand_to_hydra",
    "hydra_of",
    "is_basic_sweeper",
    "split_into_jobs",
]


def flags_parser() -> argparse.ArgumentParser:
    """The parser of Hydra's own flags and of overrides, without ``-h``.

    The documentation of ``hydra.main`` was looked at: it lists the flags, and hands no parser out.
    """
    return get_args_parser()


def hand_to_hydra(
    parser: argparse.ArgumentParser,
    flags: argparse.Namespace,
    folder: Path,
    task: Callable[[Any], Any],
) -> None:
    """Run the command ``task`` as ``hydra.main`` does, which would read ``sys.argv`` instead of ``flags``.

    The public ``hydra.main`` was looked at: it parses ``sys.argv`` itself and takes no other arguments.

    Args:
        parser: That of ``cnnexp.config.arguments.read_arguments``.
        flags: What it read, changed as the command needs it.
        folder: The config tree, unless ``flags`` name another one.
        task: Called with the config of each job.
    """
    version.setbase("1.3")
    _run_hydra(
        args=flags,
        args_parser=parser,
        task_function=task,
        config_path=str(folder),
        config_name="train",
    )


@contextmanager
def hydra_of(config_name: str, folder: Path, more: Path | None = None) -> Iterator[Hydra]:
    """Hydra itself, which composes the config ``config_name``; what was there before comes back.

    ``hydra.initialize_config_dir`` with ``hydra.compose`` was looked at: it searches one folder alone, and
    composes neither the config of a sweep as a whole nor one with a sweep's overrides in it.

    Args:
        config_name: The root config, for example ``"train"``.
        folder: The config tree.
        more: A folder for what is not in it, as with ``--config-dir``.
    """
    version.setbase("1.3")
    search_path = create_config_search_path(str(folder))
    if more is not None:
        anchor = SearchPathQuery(provider="schema")
        search_path.prepend("command-line", f"file://{more}", anchor)
    kept = get_gh_backup()
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2(config_name, search_path)
    finally:
        GlobalHydra.instance().clear()
        restore_gh_from_backup(kept)


def is_basic_sweeper(target: str) -> bool:
    """Whether ``target``, the ``_target_`` of ``hydra.sweeper``, is the sweeper that Hydra comes with.

    ``hydra.core.plugins`` was looked at: it makes sweepers and does not name them.
    """
    return target.rpartition(".")[2] == BasicSweeper.__name__


def split_into_jobs(overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job of a sweep over ``overrides``, in Hydra's order.

    ``Override.sweep_string_iterator`` was looked at, which is public: it lists the values of one override;
    their products, and the order of these, are the sweeper's.
    """
    batches = BasicSweeper.split_arguments(list(overrides), max_batch_size=None)
    return [list(job) for batch in batches for job in batch]
