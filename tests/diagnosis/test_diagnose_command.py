"""``python -m cnnexp.diagnose`` as it is typed, on real runs that do not learn, were killed or broke off."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from cnnexp import diagnose
from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.config.resolvers import register_resolvers
from cnnexp.diagnosis import diagnose_run
from cnnexp.diagnosis.tryout import changed
from cnnexp.runs import RunFolder
from cnnexp.training import NonFiniteError, run_training
from tests.conftest import InProcess

DIGITS = (
    *(
        "data=digits",
        "data.train_size=640",
        "data.val_size=160",
        "data.batch_size=16",
        "model=lenet5",
    ),
    *(
        "backward=native",
        "accelerator=cpu",
        "trainer.max_epochs=1",
        "diagnostics.every=5",
        "test=false",
    ),
)


def _train(path: Path, *overrides: str) -> RunFolder:
    register_resolvers()
    path.mkdir()
    config = plain_config(Composer("train").compose([*DIGITS, "logger=csv", *overrides]))
    run_training(build_job(config), RunFolder(path))
    return RunFolder(path)


@pytest.fixture(scope="module")
def slow_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """With a learning rate that is far too low."""
    return _train(tmp_path_factory.mktemp("slow") / "run", "optimizer.lr=1e-7")


@pytest.fixture
def run(slow_run: RunFolder, empty_folder: Path) -> RunFolder:
    """A copy of it, ``run`` in the empty folder."""
    shutil.copytree(slow_run.path, empty_folder / "run")
    return RunFolder(Path("run"))


@pytest.fixture
def typed(in_process: InProcess, empty_folder: Path) -> InProcess:
    """Run the command in this process, in an empty folder: exit code, stdout, stderr."""
    return partial(in_process, diagnose)


def test_it_says_why_a_training_did_not_learn_and_writes_a_page(
    run: RunFolder, typed: InProcess
) -> None:
    code, out, err = typed("run=run")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert text.startswith("run done this did not learn: it classifies ")
    assert "1. lr too low: a step changes weights by " in text
    assert (
        "All steps together are too small to lower the loss by much. try: take larger steps" in text
    )
    assert "optimizer.lr=0.000" in text
    assert out.endswith("run/diagnosis.html\n")
    page = Path("run/diagnosis.html").read_text(encoding="utf-8")
    assert '<h1 class="red">this did not learn: ' in page
    assert "<h2>1. lr too low</h2>" in page
    assert "<polyline points=" in page
    assert page.count("<tr>") == 6  # the head, and five layers
    assert "http" not in page  # nothing is fetched


def test_json_has_the_verdict_and_its_evidence(run: RunFolder, typed: InProcess) -> None:
    code, out, _ = typed("run=run", "--json", "output=page.html")
    content = json.loads(out)
    assert code == 0
    assert content["state"] == "done"
    assert not content["healthy"]
    first = content["findings"][0]
    assert first["cause"] == "lr too low"
    assert first["overrides"][0].startswith("optimizer.lr=")
    assert first["meaning"]
    assert content["evidence"]["steps"] == 40
    assert content["tryout"] is None
    assert Path("page.html").is_file()
    assert run.read_result()["diagnosis"]["findings"][0]["cause"] == "lr too low"


@pytest.mark.usefixtures("own_logging")
def test_the_first_suggestion_is_tried_in_a_process_of_its_own(
    run: RunFolder, typed: InProcess
) -> None:
    before = sorted(run.path.iterdir())
    code, out, err = typed("run=run", "--try", "40", "output=page.html")
    assert (code, err) == (0, "")
    (line,) = (line for line in " ".join(out.split()).split(" what the words") if "tried" in line)
    assert "tried optimizer.lr=" in line
    assert line.endswith("it helps")
    assert "40 steps: loss " in line
    assert sorted(run.path.iterdir()) == before  # the run is left as it was


def test_a_killed_run_is_judged_by_its_metrics(run: RunFolder, typed: InProcess) -> None:
    for file in (run.evidence, run.result):
        file.unlink()
    run.write_status("running", epoch=1, step=40)
    code, out, _ = typed("run=run")
    text = " ".join(out.split())
    assert code == 0
    assert text.startswith("run running this did not learn: it classifies ")
    assert "1. lr too low" in text
    assert "note: from metrics.csv alone: nothing is known of data, network and settings" in text


def test_a_run_that_broke_off_names_where(empty_folder: Path) -> None:
    with pytest.raises(NonFiniteError):
        _train(empty_folder / "nan", "model=seed_cnn", "optimizer=sgd", "optimizer.lr=1e20")
    found = diagnose_run(RunFolder("nan"))
    assert found.state == "failed"
    assert found.diagnosis.outcome.kind == "failed"
    assert found.diagnosis.findings[0].cause == "exploding"


def test_faults_of_the_settings_are_said_before_the_first_step(
    empty_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _train(empty_folder / "one", "data.train_size=200", "optimizer.lr=0.0")
    said = [record.getMessage() for record in caplog.records if "verdict" in record.getMessage()]
    assert said[0] == (
        "verdict: before the first step: no update: the learning rate is 0: raise it (optimizer.lr=0.001)"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=run", "--try", "0"], "--try 0: must be 1 to 100000 steps"),
        (["run=run", "output=no/where.html"], "output=no/where.html: there is no folder "),
        (["run=run", "output=run"], "output=run: is a folder; name a file"),
        (["run=run", "outputt=x"], "outputt=x: there is no key outputt; known: "),
        (["run=nowhere"], "run=nowhere: holds no run"),
        ([], "run= is missing: name a run folder"),
    ],
)
def test_misuse_is_one_line(
    arguments: list[str], message: str, run: RunFolder, typed: InProcess
) -> None:
    code, out, err = typed(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("cnnexp.diagnose: " + message)
    assert err.count("\n") == 1
    assert not Path("run/diagnosis.html").exists()


def test_damaged_evidence_is_a_failure_in_one_line(run: RunFolder, typed: InProcess) -> None:
    run.evidence.write_text('{"classes": 10}')
    code, _, err = typed("run=run")
    assert code == 1
    assert err.startswith("cnnexp.diagnose: run/evidence.json: is not evidence of this version: ")


def test_a_run_without_a_step_cannot_be_judged(run: RunFolder, typed: InProcess) -> None:
    for file in (run.evidence, run.result, run.metrics):
        file.unlink()
    code, _, err = typed("run=run")
    assert code == 2
    assert err == (
        "cnnexp.diagnose: run=run: has logged no training step yet; let it train, or choose another run\n"
    )


def test_a_choice_changes_the_config_as_it_would_on_the_command_line(run: RunFolder) -> None:
    config = run.read_config()
    made = changed(
        config, ["optimizer.lr=0.01", "regularization=batch_norm", "model.activation=relu"]
    )
    assert made["optimizer"]["lr"] == 0.01
    assert made["model"]["norm"] == "batch"
    assert made["model"]["activation"] == "relu"
    assert config["optimizer"]["lr"] == 1e-7
    clipped = changed(config, ["regularization=clip_norm"])
    assert clipped["regularization"]["clip"]["norm"] == 1.0
