"""Groups of runs that differ only by their seeds and folds, with means and their 95 % intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from cnnexp.reporting.gather import Run


@dataclass(frozen=True)
class Curve:
    """A metric by epoch: the mean over runs, and the ends of its 95 % interval."""

    epochs: Sequence[int]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Group:
    """Runs with the same settings and data set.

    Attributes:
        settings: The settings in which the group differs from others.
        dataset: The name of the data.
        runs: The runs, in any state.
    """

    settings: Mapping[str, object]
    dataset: str
    runs: Sequence[Run]

    @property
    def name(self) -> str:
        """A name for legends: the settings, shortened."""
        known = {key: value for key, value in self.settings.items() if value is not None}
        parts = [f"{short(key)}={short(value)}" for key, value in known.items()]
        return " ".join(parts) or "all runs"

    def mean(self, key: str) -> tuple[float, float, int]:
        """Mean, half of the 95 % interval (NaN for one run) and number of values, for a figure of
        result.json.

        The values are those of the seeds, each the mean over its runs, which say nothing new; in a
        cross-validation those of its folds, each the mean over seeds.
        """
        return self._interval(
            {id(r): r.result[key] for r in self.runs if is_number(r.result.get(key))}
        )

    def by_unit(self, key: str) -> dict[Hashable, float]:
        """A figure of result.json by what is the same in the runs of other settings: by the fold or, without
        folds, by the seed; over several runs of one unit their mean.
        """
        found = {id(r): r.result[key] for r in self.runs if is_number(r.result.get(key))}
        return self._units(found)

    @property
    def shared(self) -> float:
        """How many images validate by one that is trained on, where the runs are folds; else 0."""
        return max((run.shared for run in self.runs), default=0.0)

    def _units(self, values: Mapping[int, float]) -> dict[Hashable, float]:
        """``values`` by run → by fold or seed."""
        units: dict[Hashable, list[float]] = {}
        for run in self.runs:
            if id(run) in values:
                units.setdefault(_unit(run), []).append(values[id(run)])
        return {unit: statistics.mean(own) for unit, own in units.items()}

    def _interval(self, values: Mapping[int, float]) -> tuple[float, float, int]:
        return interval([*self._units(values).values()], self.shared)

    def curve(self, name: str) -> Curve:
        """The curve of a metric by epoch; at epochs that fewer runs have reached, the interval is wider."""
        own = {id(run): run.curves.get(name, {}) for run in self.runs}
        epochs = sorted({epoch for each in own.values() for epoch in each})
        mean, low, high = [], [], []
        for epoch in epochs:
            values = {i: e[epoch] for i, e in own.items() if epoch in e and math.isfinite(e[epoch])}
            middle, half, _ = self._interval(values)
            half = 0.0 if math.isnan(half) else half
            least, most = (0.0, 1.0) if name.endswith("/acc") else (-math.inf, math.inf)
            mean.append(middle)
            low.append(max(middle - half, least))
            high.append(min(middle + half, most))
        return Curve(epochs, mean, low, high)


def _unit(run: Run) -> Hashable:
    """By what runs of a setting are independent: the fold, or the seed, or itself where that is unknown."""
    if run.fold is not None:
        return run.fold
    return id(run) if run.seed is None else run.seed


def group_runs(runs: Sequence[Run], settings: Mapping[str, Sequence[object]]) -> list[Group]:
    """Group ``runs`` by ``settings`` (key → the value of each run) and data, in the runs' order.

    Data of one name and another checksum is other data; a run that has none yet is of the first.
    """
    found: dict[tuple[str, ...], list[int]] = {}
    first: dict[str, str] = {}
    for run in runs:
        if run.checksum:
            first.setdefault(run.dataset, run.checksum)
    for i, run in enumerate(runs):
        data = run.dataset, run.checksum or first.get(run.dataset, "")
        mark = (*data, *(repr(values[i]) for values in settings.values()))
        found.setdefault(mark, []).append(i)
    return [
        Group(
            {key: values[own[0]] for key, values in settings.items()},
            runs[own[0]].dataset,
            [runs[i] for i in own],
        )
        for own in found.values()
    ]


def interval(values: Sequence[float], shared: float = 0.0) -> tuple[float, float, int]:
    """Mean, half of its 95 % interval by Student's t, and number of values; NaN where it is undefined.

    Args:
        values: One each seed or fold.
        shared: Of folds, how many images validate by one that is trained on. The folds of a cross-validation
            share most of their training images, so that their values vary less than those of new images
            would: the variance of the mean is taken as s²·(1/n + ``shared``) in the place of s²/n (Nadeau &
            Bengio, "Inference for the generalization error", Machine Learning 52, 2003).
    """
    n = len(values)
    if n == 0:
        return math.nan, math.nan, 0
    if n == 1:
        return values[0], math.nan, 1
    from scipy.stats import t

    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(values) * math.sqrt(1 / n + shared)
    return statistics.mean(values), half, n


def percent(mean: float, half: float, n: int) -> str:
    """The text for the result of :func:`interval` on shares, in percent; "" if there are no values.

    A share lies in 0…1, and so do the ends of its interval.
    """
    if n == 0:
        return ""
    if math.isnan(half):
        return f"{mean:.2%}"
    low, high = max(mean - half, 0.0), min(mean + half, 1.0)
    return f"{100 * mean:.2f} [{100 * low:.2f}, {100 * high:.2f}] %"


def short(value: object) -> str:
    """A key or class name without the part before its last dot, or a number in few digits."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    if text.endswith("._target_"):
        return text.removesuffix("._target_")
    return text.rpartition(".")[2] if "." in text and " " not in text else text


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
