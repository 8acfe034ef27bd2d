"""Find runs below folders, and read what a report compares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from cnnexp.runs import RunFolder, RunFolderError
from cnnexp.runs.files import leaves, read_json
from cnnexp.runs.keys import meaning

_SPLIT = "data.split_seed"


@dataclass(frozen=True)
class Run:
    """One run, as its folder describes it.

    Attributes:
        folder: The run folder.
        state: The state in status.json.
        status: The content of status.json.
        result: The content of result.json; {} while there is none.
        config: config.yaml by dotted keys, without those on which no result depends.
        choices: The overrides of a sweep's job by key, without seed and sweep.
        seed: The run's seed.
        dataset: The name of the data.
        checksum: The checksum of the data.
        commit: The commit of the code, with ``+`` if it had been changed since; "" if unknown.
        problems: Messages about files in the folder that cannot be read.
        debug: Whether it was to find something out, beside all real runs.
        fold: Of a cross-validation, what its validation images are: how many folds there are, the seed of
            their shuffling, and which of them it is; None without one.
        shared: Of a cross-validation, how many images validate by one that is trained on; else 0.
        curves: The metrics by epoch, without those of single steps: name → {epoch from 1: the last value in
            it}.
    """

    folder: RunFolder
    state: str
    status: Mapping[str, Any]
    result: Mapping[str, Any]
    config: Mapping[str, Any]
    choices: Mapping[str, Any]
    seed: int | None
    dataset: str
    checksum: str
    commit: str
    problems: Sequence[str] = field(default_factory=tuple)
    debug: bool = False
    fold: tuple[int, int, int] | None = None
    shared: float = 0.0
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)


def gather(paths: Sequence[Path]) -> list[Run]:
    """The runs in and below ``paths``, sorted by folder; damaged ones are included with their problems.

    Runs with ``debug=…`` are none to compare, and left out unless they are named.
    """
    folders: set[Path] = set()
    for path in paths:
        inside = not (path / "status.json").is_file()
        folders |= {file.parent for file in path.rglob("status.json")} if inside else {path}
    runs = [_read(RunFolder(folder)) for folder in sorted(folders)]
    return [run for run in runs if run.folder.path in paths or not run.debug]


def _read(folder: RunFolder) -> Run:
    problems: list[str] = []

    def content(read: Any, nothing: Any = MappingProxyType({})) -> Any:
        try:
            return read()
        except RunFolderError as error:
            problems.append(str(error))
            return nothing

    status, result = content(folder.read_status), content(folder.read_result)
    provenance, config = content(folder.read_provenance), content(folder.read_config)
    data, git = provenance.get("dataset") or {}, provenance.get("git") or {}
    commit = str(git.get("commit", ""))[:10] + ("+" if git.get("dirty") else "")
    flat = dict(leaves(config))
    fold = _fold(flat)
    choices = _choices(content(lambda: read_json(folder.job)).get("overrides", ()))
    if fold is not None:  # whichever way the folds were shuffled, the setting is the same
        flat.pop(_SPLIT, None)
        choices.pop(_SPLIT, None)
    return Run(
        folder,
        str(status.get("state", "unreadable" if problems else "waiting")),
        status,
        result,
        {key: value for key, value in flat.items() if meaning(key).report},
        choices,
        flat.get("seed"),
        str(data.get("name", result.get("dataset", ""))),
        str(data.get("checksum", "")),
        commit,
        problems,
        debug=flat.get("debug.name", "none") != "none",
        fold=fold,
        shared=0.0 if fold is None else _shared(fold[0], data.get("sizes")),
        curves=_curves(content(folder.read_metrics, [])),
    )


def _curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """The metrics by epoch, without those of single steps: name → {epoch from 1: the last value in it}."""
    made: dict[str, dict[int, float]] = {}
    for row in rows:
        name = row["name"]
        if row["epoch"] is None or name.endswith("_step") or name.startswith(("hp/", "test/")):
            continue
        made.setdefault(name, {})[row["epoch"]] = row["value"]
    return made


def _fold(flat: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """(folds, split seed, fold) of a run's config by dotted keys; None without a cross-validation."""
    found = tuple(flat.get(f"data.{name}") for name in ("folds", "split_seed", "fold"))
    folds, seed, fold = found
    if not (isinstance(folds, int) and isinstance(seed, int) and isinstance(fold, int)):
        return None
    return folds, seed, fold


def _shared(folds: int, sizes: Any) -> float:
    """Validation images by training images: of the run, as provenance.json has them, else of its folds."""
    try:
        train, val = (int(each) for each in sizes[:2])
        return val / train
    except (TypeError, ValueError, ZeroDivisionError):
        return 1 / max(1, folds - 1)


def _choices(overrides: Sequence[Any]) -> dict[str, Any]:
    made = {}
    for override in overrides:
        key, _, value = str(override).lstrip("+~").partition("=")
        if meaning(key).report:
            made[key] = yaml.safe_load(value) if _is_number(value) else value
    return made


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def settings_that_differ(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings other than the seed in which ``runs`` differ: key → the value of each run.

    For the jobs of a sweep these are its overrides, provided that they distinguish as many runs as the
    configs do; otherwise they are keys of the configs, without those that follow from a chosen class.
    """
    by_config = _differing([run.config for run in runs])
    if all(run.config.get(_SPLIT) in (None, run.seed) for run in runs):  # it follows the seed
        by_config.pop(_SPLIT, None)
    targets = {key.removesuffix("_target_") for key in by_config if key.endswith("._target_")}
    for part in targets:
        chosen = by_config[f"{part}_target_"]
        for key in [key for key in by_config if key.startswith(part) and not key.endswith("_")]:
            seen = {(repr(a), repr(b)) for a, b in zip(chosen, by_config[key], strict=True)}
            if len(seen) == len({a for a, _ in seen}):
                del by_config[key]
    by_choice = _differing([run.choices for run in runs])
    if all(run.choices for run in runs) and _kinds(by_choice) >= _kinds(by_config):
        return by_choice
    return by_config


def _differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for each in settings for key in each)
    columns = {key: [each.get(key) for each in settings] for key in keys}
    differing = {k: v for k, v in columns.items() if len({repr(value) for value in v}) > 1}
    return dict(sorted(differing.items(), key=lambda pair: (not pair[0].endswith("_"), pair[0])))


def _kinds(columns: Mapping[str, Sequence[Any]]) -> int:
    """The number of different runs that ``columns`` distinguish."""
    return len({tuple(map(repr, row)) for row in zip(*columns.values(), strict=True)})


def warnings_about(runs: Sequence[Run], *, mixed_data: bool = False) -> list[str]:
    """Warnings that belong to a comparison of ``runs``; ``mixed_data`` allows several data sets."""
    said = []
    data = Counter((run.dataset, run.checksum) for run in runs if run.dataset)
    if len(data) > 1 and not mixed_data:
        parts = ", ".join(f"{name} ({n} runs)" for (name, _), n in data.most_common())
        said.append(f"The runs are of {len(data)} data sets and do not compare: {parts}.")
    code = Counter(run.commit for run in runs if run.commit)
    if len(code) > 1:
        parts = ", ".join(f"{commit} ({n})" for commit, n in code.most_common(6))
        said.append(f"The runs are of {len(code)} versions of the code: {parts}.")
    changed = sum(run.commit.endswith("+") for run in runs)
    if changed:
        said.append(f"{changed} runs are of code that was changed since its commit (+).")
    damaged = [run for run in runs if run.problems]
    said += [f"{run.problems[0]}" for run in damaged[:5]]
    return said
