"""Differences of settings by seed and by fold: tests, correction, and what a report shows of them."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cnnexp import report
from cnnexp.reporting import differences, gather, group_runs, settings_that_differ
from cnnexp.reporting.groups import Group, interval, percent
from cnnexp.reporting.paired import holm, paired_test
from cnnexp.runs import RunFolder
from cnnexp.train import main as train


def _write(path: Path, lr: float, val: float, seed: int = 0, fold: int | None = None) -> None:
    path.mkdir(parents=True)
    folder = RunFolder(path)
    data = {"split_seed": 0 if fold is not None else seed, "val_size": None}
    folds = {} if fold is None else {"folds": 5, "fold": fold}
    folder.write_config({"seed": seed, "optimizer": {"lr": lr}, "data": {**data, **folds}})
    folder.write_provenance({"dataset": {"name": "d", "checksum": "c", "sizes": [80, 20, 10]}})
    folder.write_status("done", epoch=1, epochs=1)
    folder.write_result({"status": "done", "val/acc": val, "test/acc": val - 0.1})


def _groups(folder: Path) -> list[Group]:
    runs = gather([folder])
    settings = settings_that_differ(runs)
    assert list(settings) == ["optimizer.lr"]
    return group_runs(runs, settings)


def test_by_seed_it_is_the_paired_t_test() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(0.9, 0.01, 6), random.normal(0.89, 0.01, 6)
    expected = stats.ttest_rel(a, b)
    mean, low, high, p = paired_test([*(a - b)])
    assert (mean, p) == (pytest.approx((a - b).mean()), pytest.approx(expected.pvalue))
    ends = expected.confidence_interval(0.95)
    assert (low, high) == (pytest.approx(ends.low), pytest.approx(ends.high))


def test_by_fold_the_variance_is_that_of_nadeau_and_bengio() -> None:
    values = [0.010, 0.014, 0.004, 0.012, 0.010]  # mean 0.010, s² = 56e-6 / 4 = 14e-6
    error = math.sqrt(14e-6 * (1 / 5 + 1 / 4))  # of 5 folds, 1/5 validates and 4/5 are trained on
    mean, low, high, p = paired_test(values, shared=0.25)
    assert (mean, p) == (pytest.approx(0.01), pytest.approx(2 * stats.t.sf(0.01 / error, 4)))
    assert high - mean == pytest.approx(2.7764451 * error)
    assert mean - low == pytest.approx(high - mean)
    assert p > paired_test(values)[3]  # the naive test is too sure
    assert interval(values, 0.25)[1] == pytest.approx(2.7764451 * error)


def test_the_naive_test_of_folds_finds_what_is_not_there_and_the_corrected_one_rarely() -> None:
    # no difference, and folds that share images: their correlation is ρ = n_val / (n_train + n_val)
    random, rho = np.random.default_rng(1), 1 / 5
    found = {0.0: 0, 0.25: 0}
    for _ in range(2000):
        values = math.sqrt(rho) * random.normal() + math.sqrt(1 - rho) * random.normal(size=5)
        for shared in found:
            found[shared] += paired_test([*values], shared)[3] < 0.05
    assert found[0.0] / 2000 > 0.1
    assert found[0.25] / 2000 == pytest.approx(0.05, abs=0.015)


def test_differences_that_are_all_the_same() -> None:
    assert paired_test([0.0, 0.0])[3] == 1.0
    assert math.isnan(paired_test([0.1, 0.1, 0.1])[3])


def test_holms_correction() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm([0.5, math.nan, 0.9])
    assert adjusted[::2] == pytest.approx([1.0, 1.0])
    assert math.isnan(adjusted[1])
    assert holm([]) == []


def test_settings_are_paired_by_seed_and_their_tests_corrected(tmp_path: Path) -> None:
    noise = (0.0, 0.012, -0.01, 0.003)
    for seed, (extra, other) in enumerate(zip(noise, reversed(noise), strict=True)):
        _write(tmp_path / f"a{seed}", 0.1, 0.90 + extra, seed)
        _write(tmp_path / f"b{seed}", 0.2, 0.80 + extra + 0.1 * other, seed)
        _write(tmp_path / f"c{seed}", 0.3, 0.70 + other, seed)
    _write(tmp_path / "d", 0.4, 0.95, 0)  # one seed alone: nothing to test
    found = differences(_groups(tmp_path))
    assert [(d.metric, d.first, d.second, d.by, d.pairs) for d in found] == [
        (metric, f"lr={a}", f"lr={b}", "seed", 4)
        for metric in ("val/acc", "test/acc")
        for a, b in ((0.1, 0.2), (0.1, 0.3), (0.2, 0.3))
    ]
    assert found[0].mean == pytest.approx(0.1 - 0.1 * sum(noise) / 4)
    assert [d.holm for d in found[:3]] == pytest.approx(holm([d.p for d in found[:3]]))


def test_folds_are_one_setting_and_the_mean_of_their_seeds(tmp_path: Path) -> None:
    for fold in range(5):
        for seed in range(2):
            _write(tmp_path / f"a{fold}{seed}", 0.1, 0.90 + 0.01 * fold + 0.02 * seed, seed, fold)
        _write(tmp_path / f"b{fold}", 0.2, 0.85 + 0.01 * fold + 0.001 * (fold % 2), 0, fold)
    groups = _groups(tmp_path)
    assert [len(group.runs) for group in groups] == [10, 5]
    means = [0.91 + 0.01 * fold for fold in range(5)]
    assert groups[0].mean("val/acc") == pytest.approx(interval(means, 20 / 80))
    (found,) = differences(groups)
    assert (found.metric, found.by, found.pairs) == ("val/acc", "fold", 5)
    assert found.mean == pytest.approx(0.06 - 0.0004)
    assert found.holm == found.p


def test_intervals_of_shares_stay_between_0_and_100() -> None:
    assert percent(0.99, 0.03, 3) == "99.00 [96.00, 100.00] %"
    assert percent(0.01, 0.03, 3) == "1.00 [0.00, 4.00] %"
    assert percent(0.5, math.nan, 1) == "50.00%"


def test_a_cross_validation_from_the_command_to_the_report(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def called(main: object, *arguments: str) -> int | str | None:
        monkeypatch.setattr(sys, "argv", ["cnnexp", *arguments])
        with pytest.raises(SystemExit) as end:
            main()  # pyright: ignore[reportCallIssue]
        return end.value.code

    small = ("data=synthetic", "data.size=30", "data.image_size=8", "model=tiny", "backward=native")
    tiny = (
        "trainer.max_epochs=1",
        "logger=csv",
        "diagnostics=off",
        "accelerator=cpu",
        "test=false",
    )
    swept = ("-m", "sweep.name=cv", "data.folds=2", "data.fold=0,1", "optimizer.lr=1e-3,1e-2")
    assert called(train, *swept, *small, *tiny, "hydra.launcher.jobs=1") == 0
    assert called(report.main, "outputs/sweeps/cv", "--no-page") == 0
    said = capfd.readouterr().out
    assert "by fold: corrected resampled t-test (Nadeau & Bengio, 2003)" in said
    assert "2 folds" in said
    with Path("outputs/sweeps/cv/results.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert sorted((row["optimizer.lr"], row["fold"]) for row in rows) == [
        (lr, fold) for lr in ("0.001", "0.01") for fold in "01"
    ]
    search = ("-m", "hydra/sweeper=optuna", "sweep.name=s", "data.folds=2", "data.fold=0,1")
    assert called(train, *search, *small, *tiny) == 2
    assert "would choose the fold with the easiest images" in capfd.readouterr().err
    assert not Path("outputs/sweeps/s").exists()
