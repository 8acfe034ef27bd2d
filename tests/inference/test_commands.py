"""``cnnexp.evaluate``, ``cnnexp.predict``, ``cnnexp.export`` as they are in_process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnexp import evaluate, export, predict
from cnnexp.inference import FORMATS
from cnnexp.runs import RunFolder
from tests.conftest import InProcess


def _drawing(file: Path) -> Path:
    picture = Image.new("RGB", (60, 80), "white")
    picture.paste((0, 0, 120), (28, 15, 33, 65))
    picture.save(file)
    return file


def test_evaluate_prints_tables_and_json(
    in_process: InProcess, copied: Callable[[], RunFolder]
) -> None:
    run = copied()
    code, out, err = in_process(evaluate, "run=run")
    assert (code, err) == (0, "")
    accuracy = run.read_result()["test/acc"]
    lines = out.splitlines()
    assert lines[0].startswith("run  best.ckpt, epoch ")
    assert lines[1] == "digits test, 360 images"
    assert [line.split()[0] for line in lines[4:6]] == ["average", "trained"]
    assert f"{accuracy:.2%}" in lines[4]
    assert "confusion matrix: a row a true class, a column a predicted one" in out
    code, out, _ = in_process(evaluate, "run=run", "--json", "split=val", "checkpoint=last")
    found = json.loads(out)
    assert code == 0
    assert (found["dataset"], found["split"], found["epoch"]) == ("digits", "val", 3)
    assert list(found["weights"]) == ["average", "trained on"]
    assert (
        sum(map(sum, found["weights"]["average"]["confusion"]))
        == found["weights"]["average"]["images"]
    )


def test_evaluate_on_other_images(in_process: InProcess, copied: Callable[[], RunFolder]) -> None:
    copied()
    code, out, _ = in_process(
        evaluate, "run=run", "--json", "data=synthetic", "data.size=200", "data.val_size=10",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["dataset"] == "synthetic"
    code, _, err = in_process(evaluate, "run=run", "data=synthetic", "data.image_size=32")
    assert code == 2
    assert "the network takes 1×28×28 images of 10 classes, but synthetic has " in err


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (evaluate, ("run=run", "split=all"), "split=all: must be one of test, val, train"),
        (evaluate, ("run=run", "checkpoint=first"), "checkpoint=first: must be one of best, last"),
        (evaluate, ("run=run", "splt=val"), "there is no key splt; .*Did you mean 'split'"),
        (evaluate, ("run=run", "data.val_sise=1"), r"Did you mean 'data\.val_size'"),
        (evaluate, ("run=run", "device=tpu3"), "device=tpu3: cannot be used here: "),
        (evaluate, ("run=run", "backward=fast"), r"backward\.name=fast: .*known"),
        (evaluate, (), "run= is missing: name a run folder"),
        (evaluate, ("run=nowhere",), "run=nowhere: holds no run"),
        (evaluate, ("run",), "run: must be key=value"),
        (predict, ("run=run",), "there are no pictures: name files or folders"),
        (predict, ("x.png",), "run= is missing"),
        (predict, ("run=run", "x.png", "--top", "0"), "--top=0: must be at least 1"),
        (export, ("run=run", "format=h5"), "format=h5: must be one of onnx, torch_export, safet"),
        (export, ("run=run", "output=no/where.onnx"), "output=no/where.onnx: there is no folder"),
    ],
)  # fmt: skip
def test_misuse_is_one_line(
    module: Any,
    arguments: tuple[str, ...],
    message: str,
    in_process: InProcess,
    copied: Callable[[], RunFolder],
) -> None:
    copied()
    code, out, err = in_process(module, *arguments)
    assert (code, out) == (2, "")
    assert re.search(message, err), err
    assert err.count("\n") == 1


def test_predict_is_told_what_the_numbers_of_a_deep_picture_mean(
    in_process: InProcess, copied: Callable[[], RunFolder]
) -> None:
    copied()
    grey = np.asarray(Image.open(_drawing(Path("a.png"))).convert("L"))
    Image.fromarray(grey.astype(np.float32) / 255).save("a.tif")
    _, as_it_is, _ = in_process(predict, "run=run", "a.png")
    code, out, err = in_process(predict, "run=run", "a.tif")
    assert (code, out) == (1, "")
    assert "\ncnnexp.predict: a.tif: its pixels are floating-point numbers from" in err
    code, out, err = in_process(predict, "run=run", "a.tif", "value_range=[0,1]")
    assert (code, out, err) == (0, as_it_is.replace("a.png", "a.tif"), "cnnexp.predict: uses run\n")
    for wrong in ("value_range=white", "value_range=[1,1]"):
        code, _, err = in_process(predict, "run=run", "a.tif", wrong)
        assert code == 2
        assert "must be two different numbers, what is black and what is white" in err


def test_predict_names_every_picture_and_goes_on_after_bad_ones(
    in_process: InProcess, copied: Callable[[], RunFolder], empty_folder: Path
) -> None:
    copied()
    Path("in").mkdir()
    _drawing(Path("in/a=1.png"))  # no setting, for all its =
    Path("in/bad.png").write_text("x")
    _drawing(Path("b.png"))
    code, out, err = in_process(predict, "run=run", "in", "b.png", "in/a=1.png")
    assert code == 1
    assert err == (
        "cnnexp.predict: uses run\n"
        "cnnexp.predict: in/bad.png: not a picture that can be read: no known format\n"
    )
    assert [line.split()[0] for line in out.splitlines()] == ["in/a=1.png", "b.png", "in/a=1.png"]
    code, out, err = in_process(predict, "run=run", "b.png", "--json", "--top", "2")
    assert (code, err) == (0, "cnnexp.predict: uses run\n")
    ((found),) = json.loads(out)
    assert found["file"] == "b.png"
    assert len(found["top"]) == 2


def test_export_says_what_it_wrote(in_process: InProcess, copied: Callable[[], RunFolder]) -> None:
    copied()
    code, out, err = in_process(export, "run=run", "format=safetensors")
    assert (code, err) == (0, "")
    assert out.startswith("run/model.safetensors  ")
    assert "logits within 0.0e+00 of torch's" in out
    assert Path("run/model.safetensors").stat().st_size > 1000
    code, out, _ = in_process(export, "run=run", "format=torch_export", "output=net.pt2")
    assert code == 0
    assert Path("net.pt2").exists()


def test_a_run_of_a_gpu_is_used_without_one(
    in_process: InProcess, copied: Callable[[], RunFolder]
) -> None:
    run = copied()
    config = run.read_config()
    config["accelerator"] = {**config["accelerator"], "name": "gpu"}
    run.write_config(config)
    assert in_process(evaluate, "run=run")[0] == 0
    assert in_process(export, "run=run", "format=torch_export")[0] == 0


def test_other_data_than_the_runs_is_noticed(
    in_process: InProcess, copied: Callable[[], RunFolder]
) -> None:
    run = copied()
    origin = run.read_provenance()
    origin["dataset"]["checksum"] = "0"
    run.write_provenance(origin)
    code, _, err = in_process(evaluate, "run=run")
    assert code == 2
    assert "the run is of digits, but what is found now (digits) has another checksum" in err
    assert in_process(evaluate, "run=run", "data=digits")[0] == 0


def test_an_export_that_fails_is_one_line(
    in_process: InProcess, copied: Callable[[], RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied()

    def fails(*arguments: object) -> object:
        raise ValueError("this layer\nis unknown")

    monkeypatch.setitem(FORMATS, "onnx", ("onnx", fails))
    code, out, err = in_process(export, "run=run")
    assert (code, out) == (1, "")
    assert err == (
        "cnnexp.export: the network cannot be exported to model.onnx: this layer is unknown\n"
    )
    assert not (run.path / "model.onnx").exists()


@pytest.mark.parametrize("name", ["evaluate", "predict", "export"])
def test_help_imports_neither_torch_nor_lightning(name: str) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['cnnexp.{name}', '--help']\n"
        f"try: runpy.run_module('cnnexp.{name}', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'lightning', 'torchvision', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "run=<folder>" in done.stdout


def test_as_a_process_with_a_closed_pipe(digits_run: RunFolder, empty_folder: Path) -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m cnnexp.evaluate run='{digits_run}' | head -n 1",
        shell=True, cwd=empty_folder, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert "best.ckpt, epoch" in done.stdout
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
