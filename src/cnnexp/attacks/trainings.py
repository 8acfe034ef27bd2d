"""The trainings of an attack, as the jobs of a sweep: run in parallel, resumed by the same command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnexp.config.build import build_job, check_job
from cnnexp.config.errors import ConfigError
from cnnexp.data import DataUnavailableError
from cnnexp.execution import Job
from cnnexp.runs import RunFolder
from cnnexp.sweeps import Ledger
from cnnexp.sweeps.launcher import LauncherSettings, LocalLauncher, Task
from cnnexp.sweeps.view import View


class AttackError(RuntimeError):
    """A training that an attack needs has failed."""


def run_trainings(
    place: Path,
    configs: Mapping[str, Mapping[str, Any]],
    settings: LauncherSettings,
    extra_targets: Sequence[str] = (),
) -> list[RunFolder]:
    """Run one training for each config, unless ``place`` holds it already.

    A training that was stopped is resumed; one that failed is tried again.

    Args:
        place: The folder of the sweep that they make; ``python -m cnnexp.sweep status`` shows it.
        configs: The resolved configs, by what tells each from the others.
        settings: How many run at a time.
        extra_targets: Prefixes of ``_target_`` allowed beyond cnnexp's own list.

    Returns:
        The run folders, in the order of ``configs``; all of them are done.

    Raises:
        AttackError: One has failed; the message says why.
        ConfigError: They cannot start, or their data is not available.
    """
    try:
        check_job(build_job(next(iter(configs.values())), extra_targets), extra_targets)
    except DataUnavailableError as error:
        raise ConfigError(str(error)) from error
    ledger = Ledger(place)
    place.mkdir(parents=True, exist_ok=True)
    ledger.stop.unlink(missing_ok=True)
    tasks = []
    for name, config in configs.items():
        job = ledger.add(config, [name])
        entry = ledger.entry(job)
        again = str(entry.status.get("time")) if entry.state == "failed" else None
        described = Job(config, str(ledger.folder(job)), tuple(extra_targets))
        tasks.append(Task(job, described, retry=again))
    for entry in LocalLauncher(ledger, settings, View()).run(tasks):
        if entry.state != "done":
            reason = entry.status.get("error") or f"its state is {entry.state}"
            raise AttackError(
                f"{entry.folder}: a training that the attack needs is not done: {reason}; the same command "
                f"tries it again"
            )
    return [ledger.folder(task.id) for task in tasks]
