"""metrics.csv: epochs count from 1, also in files of the version that counted them from 0."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cnnexp.reporting import gather
from cnnexp.runs import RunFolder, RunFolderError
from cnnexp.training.epochs import epoch_of_weights
from cnnexp.training.loggers import MetricsFile
from tests.conftest import ROOT

# as version 0.1.0 wrote it: two epochs, then the test
OF_THE_FIRST_VERSION = """epoch,step,name,value
0,9,train/loss_step,0.5
0,11,val/acc,0.25
1,19,train/loss_step,0.4
1,23,val/acc,0.5
2,24,test/acc,0.5
"""


def _epochs(folder: RunFolder) -> list[tuple[int | None, str]]:
    return [(row["epoch"], row["name"]) for row in folder.read_metrics()]


def test_a_file_that_counts_from_0_is_read_as_if_it_had_counted_from_1(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(OF_THE_FIRST_VERSION)
    assert _epochs(folder) == [
        (1, "train/loss_step"),
        (1, "val/acc"),
        (2, "train/loss_step"),
        (2, "val/acc"),
        (2, "test/acc"),  # after two epochs
    ]
    folder.write_status("done")
    (run,) = gather([tmp_path])
    assert run.curves["val/acc"] == {1: 0.25, 2: 0.5}


def test_it_goes_on_as_it_began(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    before = OF_THE_FIRST_VERSION.rpartition("2,24")[0]
    folder.metrics.write_text(before)
    logger = MetricsFile(folder)
    logger.log_metrics({"val/acc": 0.75, "epoch": 2}, step=35)  # two are done, as Lightning says it
    logger.log_metrics({"test/acc": 0.75, "epoch": 3}, step=36)
    added = "2,35,val/acc,0.75\n3,36,test/acc,0.75\n"
    assert folder.metrics.read_text() == before + added
    assert _epochs(folder)[-2:] == [(3, "val/acc"), (3, "test/acc")]


def test_a_new_file_counts_from_1_and_the_test_says_how_many_there_were(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    logger = MetricsFile(folder)
    logger.log_metrics({"train/loss_step": 0.5, "epoch": 0}, step=9)
    logger.log_metrics({"val/acc": 0.25, "epoch": 0}, step=11)
    logger.log_metrics({"test/acc": 0.5, "epoch": 1}, step=12)
    logger.log_metrics({"grad/norm": 0.5}, step=12)
    assert folder.metrics.read_text().splitlines() == [
        "epoch,step,name,value",
        "1,9,train/loss_step,0.5",
        "1,11,val/acc,0.25",
        "1,12,test/acc,0.5",
        ",12,grad/norm,0.5",
    ]
    assert [epoch for epoch, _ in _epochs(folder)] == [1, 1, 1, None]


def test_a_file_without_rows_or_of_rubbish_counts_from_1(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    head = "epoch,step,name,value\n"
    for text in ("", head, f"{head},1,x,0.5\n"):
        folder.metrics.write_text(text)
        folder.append_metrics({"val/acc": 0.5}, epoch=1, step=3)
        assert folder.metrics.read_text() == f"{text or head}1,3,val/acc,0.5\n"


def test_of_which_epoch_the_weights_of_a_checkpoint_are() -> None:
    assert epoch_of_weights({"epoch": 0}) == 1  # best.ckpt, within its first epoch
    assert epoch_of_weights({"epoch": 3, "cnnexp": {}}) == 3  # last.ckpt, after the third
    assert epoch_of_weights({}) is None


def test_nobody_else_turns_one_way_of_counting_epochs_into_the_other() -> None:
    repair = re.compile(r"""epochs?["'\])]* [+-] 1\b|\+ 1 .{0,20}epoch|\.index\(\w+\) \+ 1""")
    found = [
        str(file.relative_to(ROOT))
        for file in (ROOT / "src").rglob("*.py")
        if file.name != "epochs.py" and repair.search(file.read_text(encoding="utf-8"))
    ]
    assert found == []


CUT = ("3", "3,120", "3,120,val/acc", "3,120,val/acc,0.9")


@pytest.mark.parametrize("beginning", CUT)
def test_the_beginning_of_a_row_is_left_out_and_taken_away_by_the_next(
    tmp_path: Path, beginning: str
) -> None:
    folder = RunFolder(tmp_path)
    folder.append_metrics({"val/acc": 0.25}, epoch=1, step=11)
    whole = folder.metrics.read_bytes()
    folder.metrics.write_bytes(whole + beginning.encode())
    assert _epochs(folder) == [(1, "val/acc")]
    folder.append_metrics({"val/acc": 0.5}, epoch=2, step=23)
    assert folder.metrics.read_bytes() == whole + b"2,23,val/acc,0.5\r\n"


def test_a_head_that_is_cut_off_is_written_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_bytes(b"epoch,st")
    assert folder.read_metrics() == []
    folder.append_metrics({"val/acc": 0.5}, epoch=1, step=11)
    assert _epochs(folder) == [(1, "val/acc")]


def test_the_end_is_found_in_a_file_of_many_blocks(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append_metrics({"val/acc": 0.25}, epoch=1, step=11)
    whole = folder.metrics.read_bytes()
    folder.metrics.write_bytes(whole + b"2" * 10_000)
    assert _epochs(folder) == [(1, "val/acc")]
    folder.append_metrics({"x" * 10_000: 0.5}, epoch=2, step=23)
    folder.append_metrics({"val/acc": 0.5}, epoch=2, step=23)
    assert [name for _, name in _epochs(folder)] == ["val/acc", "x" * 10_000, "val/acc"]


@pytest.mark.parametrize("row", ["2", "2,23", "2,23,val/acc", "2,23,val/acc,?", "x,23,val/acc,0.5"])
def test_another_row_that_is_damaged_is_named_and_does_not_end_a_report(
    tmp_path: Path, row: str
) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(f"epoch,step,name,value\n1,11,val/acc,0.25\n{row}\n")
    said = f"{folder.metrics}: line 3 is no row of epoch,step,name,value; mend it or take it out"
    with pytest.raises(RunFolderError, match=f"^{re.escape(said)}$"):
        folder.read_metrics()
    folder.write_status("done")
    (run,) = gather([tmp_path])
    assert (run.state, run.curves, list(run.problems)) == ("done", {}, [said])
