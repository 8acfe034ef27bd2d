"""A run that chose its precision is used like any other: in float32, on any machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cnnexp import evaluate, export, predict
from cnnexp.training import precision
from cnnexp.tuning import PrecisionChoice, StepChoice
from tests.conftest import InProcess
from tests.inference.conftest import DIGITS, train
from tests.inference.test_commands import _drawing


def test_such_a_run_is_evaluated_used_and_exported(
    in_process: InProcess, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = PrecisionChoice(True, StepChoice({}, 1.0), 0.7)
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda _: True)
    monkeypatch.setattr(precision, "choose_precision", lambda *_: chosen)
    run = train(Path("run"), *DIGITS, "accelerator.precision=auto", "backward=native")
    assert run.read_result()["precision"] == "bf16-mixed"
    node = yaml.safe_load(run.config.read_text(encoding="utf-8"))["accelerator"]
    assert (node["precision"], node["chosen_precision"]) == ("auto", "bf16-mixed")
    monkeypatch.setattr(precision, "choose_precision", lambda *_: pytest.fail("measured"))
    for module, *arguments in (
        (evaluate,),
        (predict, str(_drawing(empty_folder / "one.png"))),
        (export,),
    ):
        code, _, err = in_process(module, "run=run", *arguments)
        assert code == 0, err
    assert list(run.path.rglob("*.onnx")) or list(empty_folder.glob("*.onnx"))
