"""``cnnexp.train debug=…`` in an empty folder: what each finds out, and that none is taken for a real run."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cnnexp import report, train
from cnnexp.config import Composer, plain_config
from cnnexp.config.hydra_settings import for_all
from cnnexp.reporting.gather import gather
from cnnexp.runs import RunFolder, config_hash
from tests.conftest import ROOT, InProcess

SMALL = (
    *("data=digits", "data.train_size=320", "data.val_size=20", "data.batch_size=16", "name=tried"),
    *("model=tanh_cnn", "backward=native", "accelerator=cpu", "logger=csv"),
)
CHOICES = sorted(file.stem for file in (ROOT / "conf" / "debug").glob("*.yaml"))
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def typed(in_process: InProcess, empty_folder: Path) -> Run:
    """Run the command with ``arguments``: exit code, and all that it said."""

    def run(*arguments: str) -> tuple[int, str]:
        code, out, err = in_process(train, *arguments)
        return code, out + err

    return run


def _run() -> RunFolder:
    (place,) = Path("outputs/debug/tried").iterdir()
    return RunFolder(place)


def test_one_batch_is_learnt_by_heart_and_it_is_said(typed: Run) -> None:
    code, said = typed(*SMALL, "debug=overfit", "optimizer.lr=3e-3")
    assert code == 0, said
    assert "to 0.009" in said
    assert "it is learnt by heart" in said
    assert said.count("\nepoch ") < 15  # not a line a step
    found = _run().read_result()["debug"]
    assert (found["name"], found["passed"]) == ("overfit", True)
    assert found["first"] > 2 > 0.01 > found["last"]
    assert _run().read_result()["test/acc"] is None


def test_what_does_not_learn_fails_and_hindrances_are_named(typed: Run) -> None:
    code, said = typed(
        *(*SMALL, "debug=overfit", "optimizer.lr=1e-9", "trainer.max_epochs=3"),
        "regularization=label_smoothing",
    )
    assert code == 1
    assert (
        "in 3 steps, not below 0.01: a layer or its gradient may be wrong, or optimizer.lr" in said
    )
    assert "regularization=label_smoothing may keep it from there" in said
    assert _run().read_status()["state"] == "done"
    assert _run().read_result()["debug"]["passed"] is False


def test_a_profile_has_a_trace_and_tables(typed: Run) -> None:
    code, said = typed(*SMALL, "debug=profile")
    assert code == 0, said
    place = _run().profile
    with gzip.open(place / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    names = {event.get("name") for event in events}
    assert any(str(name).startswith("layer features.0 (") for name in names)
    assert any("evaluate_function" in str(name) for name in names)
    layers = (place / "layers.txt").read_text()
    assert layers in said + "\n"
    rows = [line.split() for line in layers.splitlines() if "(Linear)" in line]
    assert rows
    for _name, _kind, forward, backward, *_ in rows:
        assert float(forward) > 0
        assert float(backward) > 0
    assert "aten::" in (place / "operators.txt").read_text()
    assert _run().read_result()["debug"] == {"name": "profile", "passed": True, "steps": 10}


def test_a_profile_has_layers_that_are_computed_as_one_as_one(typed: Run) -> None:
    code, said = typed(*SMALL, "debug=profile", "model=lenet5", "backward=fused")
    assert code == 0, said
    layers = (_run().profile / "layers.txt").read_text(encoding="utf-8")
    assert "classifier.0 (LinearAct)" in layers
    assert "classifier.2" not in layers


def test_a_profile_of_too_few_steps_says_so(typed: Run) -> None:
    code, said = typed(*SMALL, "debug=profile", "trainer.limit_train_batches=3")
    assert code == 1
    assert "nothing was measured: it takes more than 5 steps" in said
    assert not _run().profile.exists()


def test_one_step_of_everything_keeps_nothing(typed: Run, empty_folder: Path) -> None:
    code, said = typed(*SMALL, "debug=fast")
    assert code == 0
    assert "everything goes through; nothing is kept" in said
    assert list(empty_folder.iterdir()) == []


def test_a_limited_run_is_a_whole_one_but_none_to_compare(
    typed: Run,
    empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, said = typed(*SMALL, "debug=limit")
    assert code == 0, said
    folder = _run()
    result = folder.read_result()
    assert (result["steps"], result["epochs"]) == (10, 2)
    assert result["test/acc"] is not None
    assert result["debug"] == {"name": "limit"}
    assert yaml.safe_load(folder.config.read_text())["debug"] == {"name": "limit"}
    # neither latest nor a report takes it for a run; named, it is shown
    code, said = typed("run=latest", "trainer.max_epochs=3")
    assert (code, "run=latest: there is no run in outputs" in said) == (2, True)
    assert gather([Path("outputs")]) == []
    assert [run.debug for run in gather([folder.path])] == [True]
    monkeypatch.setattr(sys, "argv", ["cnnexp.report", "outputs"])
    with pytest.raises(SystemExit) as stop:
        report.main()
    assert stop.value.code == 2
    assert "no run" in capsys.readouterr().err


def test_an_anomaly_is_found_where_it_begins(
    typed: Run, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_folder / "own_anomaly.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Own(nn.Module):\n"
        "    def __init__(self, num_classes=10):\n"
        "        super().__init__()\n"
        "        self.last = nn.Linear(784, num_classes)\n"
        "    def forward(self, images):\n"
        "        return self.last(images.flatten(1)).mul(0).sqrt()\n"
    )
    monkeypatch.syspath_prepend(str(empty_folder))
    model = ["~model", "+model={_target_: own_anomaly.Own}", "allow_targets=[own_anomaly.]"]
    with pytest.warns(UserWarning, match="Error detected in MulBackward0"):
        code, said = typed(*SMALL, *model, "debug=anomaly")
    assert code == 1
    assert "MulBackward0" in said  # 0 times the infinite slope of the root
    assert _run().read_status()["state"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["debug=overfitt"],
            "debug=overfitt: unknown choice; known: anomaly, fast, limit, none, ove",
        ),
        (["debug.name=fits"], "debug.name=fits: must be one of none, overfit"),
        (
            ["-m", "debug=limit", "seed=0,1"],
            "debug=limit: looks into one run, beside all real ones",
        ),
        (["-m", "debug=fast", "seed=0,1"], "debug=fast: looks into one run, beside all real ones"),
    ],
)
def test_misuse_is_one_message(
    arguments: list[str], said: str, typed: Run, empty_folder: Path
) -> None:
    code, out = typed(*SMALL, *arguments)
    assert code == 2
    assert said in out
    assert "Traceback" not in out
    assert not (empty_folder / "outputs").exists()


def test_a_real_run_is_the_job_that_it_was() -> None:
    config = plain_config(Composer("train").compose([*for_all(), *SMALL]))
    assert config["debug"] == {"name": "none"}
    before = {key: value for key, value in config.items() if key != "debug"}
    assert config_hash(config) == config_hash(before)


@pytest.mark.parametrize("name", [name for name in CHOICES if name not in ("none", "fast")])
def test_every_choice_marks_its_config(name: str) -> None:
    config = plain_config(Composer("train").compose([*for_all(), f"debug={name}"]))
    assert config["debug"] == {"name": name}
