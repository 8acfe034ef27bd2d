"""What is computed of a comparison: medians, intervals, profiles; and its page in a real browser."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest

from cnnexp import report
from cnnexp.reporting import compared, comparison_table, gather, score_table
from cnnexp.reporting.scores import Compared
from cnnexp.runs import RunFolder, RunFolderError
from cnnexp.runs.comparison_plan import Comparison, Trial, outcome_of
from tests.reporting.conftest import Drawn

# steps to the target, by workload and candidate: a row a study, a column a seed; 0: never
STEPS = {
    ("w1", "fast"): [[10, 20], [10, 10], [30, 30]],  # medians 15, 10, 30 → 15
    ("w1", "slow"): [[30, 30], [30, 30], [30, 30]],
    ("w2", "fast"): [[40, 0], [0, 0], [40, 40]],  # ∞, ∞, 40 → ∞
    ("w2", "slow"): [[20, 20], [20, 20], [20, 20]],
}


def _run(path: Path, reached: int) -> None:
    path.mkdir()
    folder = RunFolder(path)
    folder.write_config({"seed": 0, "name": "x"})
    folder.write_status("done")
    for step in (10, 20, 30, 40):
        acc = 0.95 if reached and step >= reached else 0.5
        values = {"val/acc": acc, "perf/train_seconds": step / 10}
        folder.append_metrics(values, epoch=1, step=step - 1)  # Lightning counts batches from 0
    folder.write_result({"status": "done", "val/acc": 0.95 if reached else 0.5, "test/acc": 0.9})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    jobs = []
    for (workload, candidate), studies in STEPS.items():
        for study, seeds in enumerate(studies):
            for seed, reached in enumerate(seeds):
                job = f"{workload}{candidate}{study}{seed}"
                jobs.append(Trial(job, candidate, workload, study, 0, True, seed, {"lr": 0.1}))
                _run(tmp_path / job, reached)
    targets = {"w1": 0.9, "w2": 0.9}
    spaces = {"fast": {"lr": "a,b"}, "slow": {"lr": "a,b"}}
    Comparison("val/acc", targets, ["fast", "slow"], spaces, 3, 1, 2, jobs).write(tmp_path)
    return tmp_path


def _compared(folder: Path) -> Compared:
    found = compared(folder, gather([folder]))
    assert found is not None
    return found[0]


def _report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["cnnexp.report", str(folder)])
    with pytest.raises(SystemExit) as end:
        report.main()
    return end.value.code


def test_an_outcome_is_the_first_validation_at_the_target(tmp_path: Path) -> None:
    _run(tmp_path / "r", 20)
    run = RunFolder(tmp_path / "r")
    assert vars(outcome_of(run, "val/acc", 0.9)) == {"steps": 20, "seconds": 2.0, "best": 0.95}
    never = outcome_of(run, "val/acc", 0.96)
    assert (never.steps, never.seconds, never.best) == (math.inf, math.inf, 0.95)
    run.append_metrics({"val/loss": 0.2}, epoch=1, step=39)
    assert outcome_of(run, "val/loss", 0.3).steps == 40


def test_medians_of_studies_profiles_and_scores(folder: Path) -> None:
    result = _compared(folder)
    cells = {(cell.workload, cell.candidate): cell for cell in result.cells}
    steps = {place: cell.to_target["steps"] for place, cell in cells.items()}
    assert steps["w1", "fast"][0] == 15
    assert steps["w1", "slow"] == (30, 30, 30)
    assert steps["w2", "fast"][0] == math.inf
    assert steps["w2", "fast"][1] == 40  # some samples are of the third study alone
    assert cells["w1", "fast"].to_target["seconds"][0] == 1.5
    assert (cells["w2", "fast"].reached, len(cells["w2", "fast"].runs)) == (3, 6)
    assert result.ratios["steps"] == {"fast": [1, math.inf], "slow": [2, 1]}
    assert result.scores["steps"]["fast"][0] == pytest.approx(0.5)  # (1 + 0) / 2
    assert result.scores["steps"]["slow"][0] == pytest.approx((2 / 3 + 1) / 2)
    low, high = result.scores["steps"]["slow"][1:]
    assert low < result.scores["steps"]["slow"][0] <= high <= 1
    assert [row["candidate"] for row in score_table(result)] == ["slow", "fast"]
    rows = comparison_table(result)
    assert [row["candidate"] for row in rows] == ["fast", "slow", "slow", "fast"]
    assert rows[3]["steps to target"].startswith("never [40, never]")
    assert rows[0]["chosen"] == "lr 0.1; lr 0.1; lr 0.1"


def test_the_choice_is_the_fewest_steps_then_the_best_then_not_a_failure(tmp_path: Path) -> None:
    def chosen(*trials: tuple[int, float]) -> int:
        """The trial that is chosen of those that reached the target at such steps (0: never), or failed."""
        folder = tmp_path / str(trials)
        folder.mkdir()
        jobs = []
        for number, (reached, best) in enumerate(trials):
            jobs.append(Trial(str(number), "c", "w", 0, number, False, 0, {}))
            run = RunFolder(folder / str(number))
            run.path.mkdir()
            if not math.isnan(best):
                run.append_metrics({"val/acc": 0.9 if reached else best}, epoch=1, step=reached)
                run.append_metrics({"val/acc": best}, epoch=1, step=100)
        plan = Comparison("val/acc", {"w": 0.9}, ["c"], {"c": {}}, 1, len(trials), 1, jobs)
        return plan.choose(folder, "c", "w", 0).trial

    assert chosen((30, 0.99), (20, 0.91), (40, 0.95)) == 1
    assert chosen((20, 0.91), (20, 0.92)) == 1
    assert chosen((0, math.nan), (0, 0.5), (0, 0.7)) == 2
    assert chosen((0, math.nan), (0, math.nan)) == 0


def test_before_any_final_run_is_over_there_are_no_figures_and_the_page_lives_with_that(
    folder: Path, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in folder.glob("*/status.json"):
        RunFolder(path.parent).write_status("running")
    result = _compared(folder)
    assert score_table(result) == []
    assert {row["steps to target"] for row in comparison_table(result)} == {""}
    assert _report(folder, monkeypatch) == 0
    assert "24 runs: 24 running" in drawn(folder / "report.html")


def test_a_study_that_is_not_complete_for_all_is_left_out(folder: Path) -> None:
    RunFolder(folder / "w1slow21").write_status("running")
    cells = {(cell.workload, cell.candidate): cell for cell in _compared(folder).cells}
    assert cells["w1", "fast"].to_target["steps"][0] == 12.5  # of 15 and 10
    assert cells["w2", "slow"].to_target["steps"][0] == 20
    # a candidate of which nothing is over yet is not a slow one
    for path in folder.glob("w2slow*"):
        RunFolder(path).write_status("running")
    assert _compared(folder).ratios["steps"] == {"fast": [1], "slow": [2.4]}


def test_the_documented_comparison_is_the_committed_one() -> None:
    root = Path(__file__).parents[2]
    table = (root / "benchmarks" / "results" / "compare_optimizers.md").read_text(encoding="utf-8")
    assert table in (root / "docs" / "results.md").read_text(encoding="utf-8")


def test_no_comparison_and_a_damaged_one(tmp_path: Path) -> None:
    assert compared(tmp_path, []) is None
    (tmp_path / "comparison.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"comparison\.json: cannot be read"):
        compared(tmp_path, [])


def test_its_page_draws_itself(
    folder: Path, drawn: Drawn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(folder / "other", 0)
    assert _report(folder, monkeypatch) == 0
    assert "left out: 1 runs in the folder" in capsys.readouterr().out
    page = drawn(folder / "report.html")
    for plot in ("profiles", "totarget", "curves"):
        assert re.search(rf'id="{plot}"[^>]*js-plotly-plot|js-plotly-plot[^>]*id="{plot}"', page)
    assert not re.search(r'<section id="comparison"[^>]*hidden', page)
    assert "24 of 24 runs" in page
