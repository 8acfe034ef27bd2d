"""Whether two settings differ: their runs paired by seed or by fold, a test, and Holm's correction.

Runs with the same seed, or on the same fold, have the same images to train on and to validate with, so that
the difference of two settings varies less than either does.

- By seed: the paired t-test. What it says is said of these images and other seeds.
- By fold: the corrected resampled t-test. The folds' training images overlap, for which the variance of the
  mean difference is s²·(1/n + n_val/n_train); uncorrected, a t-test finds differences where there are none.
- Of all pairs of settings together: Holm's step-down correction of the p-values, which keeps the probability
  of finding any difference that is none at the level of a single test.

Sources: Nadeau & Bengio, "Inference for the generalization error" (Machine Learning 52, 2003); for folds that
are shuffled several times, Bouckaert & Frank, "Evaluating the replicability of significance tests" (2004);
Holm, "A simple sequentially rejective multiple test procedure" (1979).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from cnnexp.reporting.groups import Group
from cnnexp.reporting.tables import by_validation, markdown, write_csv
from cnnexp.runs.files import write_text
from cnnexp.runs.goodness import less_is_better

_SCORES = ("acc", "mae", "loss")  # the first that the runs have is compared
_MOST = 300  # pairs that a page shows; beyond, those of the best setting


@dataclass(frozen=True)
class Difference:
    """A figure of one setting minus that of another, in pairs of runs that are alike but for the setting.

    Attributes:
        metric: The figure.
        first, second: The names of the settings, the better one (by validation) first.
        by: What the pairs have in common: ``fold`` or ``seed``.
        pairs: How many there are, ≥ 2.
        mean: The mean difference.
        low, high: The ends of its 95 % interval.
        p: The two-sided p-value of the hypothesis that there is no difference; NaN if all pairs differ by the
            same, which is more than a test can judge.
        holm: The same, corrected for all pairs of settings that were compared; NaN where p is.
    """

    metric: str
    first: str
    second: str
    by: str
    pairs: int
    mean: float
    low: float
    high: float
    p: float
    holm: float = math.nan


def differences(groups: Sequence[Group]) -> list[Difference]:
    """The differences of all settings of one data set that have two seeds or two folds in common.

    Of a validation figure; where the pairs are by seed, of the test as well. Each figure is corrected by
    itself. The best setting's come first.
    """
    ordered = sorted(groups, key=by_validation)
    score = next((s for s in _SCORES if any(g.by_unit(f"val/{s}") for g in ordered)), None)
    made: list[Difference] = []
    for part in ("val", "test") if score is not None else ():
        made += _corrected([*_of_pairs(ordered, f"{part}/{score}")])
    return made


def _of_pairs(groups: Sequence[Group], metric: str) -> Iterator[Difference]:
    for first, second in combinations(groups, 2):
        if first.dataset != second.dataset or first.runs[0].checksum != second.runs[0].checksum:
            continue
        folds = any(run.fold is not None for run in (*first.runs, *second.runs))
        if folds and metric.startswith("test/"):
            continue  # the test images are the same for all folds: nothing corrects for that
        a, b = first.by_unit(metric), second.by_unit(metric)
        values = [a[unit] - b[unit] for unit in a if unit in b]
        if len(values) >= 2:
            shared = max(first.shared, second.shared)
            found = paired_test(values, shared)
            names = (first.name, second.name, "fold" if folds else "seed", len(values))
            yield Difference(metric, *names, *found)


def paired_test(values: Sequence[float], shared: float = 0.0) -> tuple[float, float, float, float]:
    """Mean, ends of the 95 % interval and two-sided p-value of paired differences, see the module.

    Args:
        values: The n ≥ 2 differences, one each seed or fold.
        shared: Of folds, n_val/n_train; 0 for seeds.
    """
    from scipy.stats import t

    n = len(values)
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    error = math.sqrt(variance * (1 / n + shared))
    if error <= 1e-12 * max(1.0, abs(mean)):  # all the same, but for rounding
        return mean, mean, mean, 1.0 if abs(mean) <= 1e-12 else math.nan
    half = float(t.ppf(0.975, n - 1)) * error
    return mean, mean - half, mean + half, float(2 * t.sf(abs(mean) / error, n - 1))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order of ``values``; NaN stays, and counts as no test."""
    order = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    adjusted, least = [math.nan] * len(values), 0.0
    for rank, (p, i) in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * p))
        adjusted[i] = least
    return adjusted


def _corrected(found: Sequence[Difference]) -> list[Difference]:
    adjusted = holm([each.p for each in found])
    return [replace(each, holm=p) for each, p in zip(found, adjusted, strict=True)]


def of_the_best(found: Sequence[Difference]) -> list[Difference]:
    """Those of the best setting by validation and each of the others."""
    best = found[0].first if found else ""
    return [each for each in found if each.first == best]


def difference_table(found: Sequence[Difference]) -> list[dict[str, str]]:
    """One row per pair of settings."""
    return [
        {
            "better by validation": each.first,
            "than": each.second,
            "difference of": each.metric,
            "mean [95 % interval]": _shown(each),
            "pairs": f"{each.pairs} {each.by}s",
            "p": _p(each.p),
            "p (Holm)": _p(each.holm),
        }
        for each in found
    ]


def explained(found: Sequence[Difference]) -> str:
    """How the differences were tested, in a sentence or two; "" without any."""
    kinds = {each.by: each for each in found}
    said = []
    if "fold" in kinds:
        said.append("by fold: corrected resampled t-test (Nadeau & Bengio, 2003)")
    if "seed" in kinds:
        said.append("by seed: paired t-test, about these images and other seeds")
    count = max((sum(e.metric == m for e in found) for m in {e.metric for e in found}), default=0)
    pairs = f"all {count} pairs" if count > 1 else "the one pair"
    return (
        f"Differences of settings, {'; '.join(said)}. p by Holm: over {pairs} of a figure."
        if said
        else ""
    )


def shown_on_page(found: Sequence[Difference]) -> Sequence[Difference]:
    """All of them or, of very many, those of the best setting."""
    return found if len(found) <= _MOST else of_the_best(found)


def write_differences(found: Sequence[Difference], folder: Path) -> list[Path]:
    """Write differences.csv, and append the best setting's to results.md; return the new file."""
    file = write_csv([vars(each) for each in found], folder / "differences.csv")
    summary = folder / "results.md"
    text = summary.read_text(encoding="utf-8")
    write_text(
        summary, f"{text}\n{explained(found)}\n\n{markdown(difference_table(of_the_best(found)))}"
    )
    return [file]


def _shown(each: Difference) -> str:
    if each.metric.endswith("/acc"):
        mean, low, high = (100 * value for value in (each.mean, each.low, each.high))
        return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}] points"
    worse = " (less is better)" if less_is_better(each.metric) else ""
    return f"{each.mean:+.4g} [{each.low:+.4g}, {each.high:+.4g}]{worse}"


def _p(value: float) -> str:
    if math.isnan(value):
        return "all the same"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
