"""``python -m cnnexp.explain`` as it is typed."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from array import array
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cnnexp import __version__, explain
from cnnexp.explanation import load_untrained
from cnnexp.inference import load_trained, predict
from cnnexp.runs import RunFolder
from tests.conftest import Command, InProcess
from tests.explanation.conftest import SMALL, traced

UNTRAINED = ("data=digits", "model=seed_cnn", "model.channels=[4,6]")


@pytest.fixture
def typed(in_process: InProcess, empty_folder: Path) -> InProcess:
    """Run the command in this process, in an empty folder: exit code, stdout, stderr."""
    return partial(in_process, explain)


@pytest.fixture
def run_folder(short_run: RunFolder, empty_folder: Path) -> RunFolder:
    """A copy of a trained network's run, ``run`` in the empty folder."""
    shutil.copytree(short_run.path, empty_folder / "run")
    return RunFolder(Path("run"))


def _data(file: Path) -> dict[str, Any]:
    text = file.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


def _tensor(data: dict[str, Any], number: int) -> torch.Tensor:
    packed = data["tensors"][number]
    values = array("f", base64.b64decode(packed["data"]))
    return torch.tensor(values).view(packed["shape"])


def _drawing(file: str) -> Path:
    picture = Image.new("RGB", (60, 80), "white")
    picture.paste((0, 0, 120), (28, 15, 33, 65))
    picture.save(file)
    return Path(file)


def test_a_trained_network(typed: InProcess, run_folder: RunFolder) -> None:
    code, out, err = typed("run=run", "image=5")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert re.fullmatch(
        r"run, best\.ckpt of epoch 1; digits, test image 5: true class (\d), predicted \d "
        r"\(\d+\.\d\d%\), loss of class \1 \d+\.\d{4}",
        first,
    )
    file = run_folder.path / "explain.html"
    assert re.fullmatch(rf"{file}  [\d,]+ bytes, 8 layers", second)
    data = _data(file)
    assert data["origin"]["command"] == "python -m cnnexp.explain run=run image=5"
    assert data["version"] == __version__
    # the answer is the trained network's, whatever blocks it was trained in
    trained = load_trained(run_folder)
    pixels = _tensor(data, data["pixels"])
    expected = trained.classifier(pixels.unsqueeze(0))[0]
    torch.testing.assert_close(_tensor(data, data["logits"]), expected, rtol=1e-4, atol=1e-5)
    assert [step["kind"] for step in data["steps"]] == [
        *("Conv2d", "ReLU", "MaxPool2d", "Conv2d", "ReLU", "MaxPool2d", "Identity", "Linear"),
    ]
    assert typed("run=run", "checkpoint=last", "label=3", "output=here.html")[0] == 0
    assert _data(Path("here.html"))["label"] == 3


def test_an_untrained_network_is_what_a_training_begins_with(typed: InProcess) -> None:
    code, out, err = typed(*UNTRAINED, "seed=3", "image=2", "label=7")
    assert (code, err) == (0, "")
    assert "seed_cnn, untrained, seed 3; digits, test image 2: true class " in out
    assert "explain.html  " in out.splitlines()[1]
    data = _data(Path("explain.html"))
    assert data["classes"][data["label"]] == "7"
    network, images = load_untrained([*UNTRAINED, "seed=3"])
    pixels = images.test.batch(torch.tensor([2]))[0][0].float() / 255
    again = traced(network, pixels, 7)
    assert torch.equal(_tensor(data, data["logits"]), again.logits)
    other = traced(load_untrained([*UNTRAINED, "seed=4"])[0], pixels, 7)
    assert not torch.equal(other.logits, again.logits)


def test_the_weights_of_a_seed_are_those_of_a_training(
    typed: InProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cnnexp.training import run as training
    from tests.inference.conftest import train

    begun: list[dict[str, torch.Tensor]] = []
    fit = training._train_and_test

    def remember(job: Any, folder: Any, made: Any, *rest: Any) -> Any:
        begun.append({n: p.detach().clone() for n, p in made.classifier.network.named_parameters()})
        return fit(job, folder, made, *rest)

    monkeypatch.setattr(training, "_train_and_test", remember)
    settings = (*SMALL, "model=tiny", "seed=5")
    train(tmp_path / "run", *settings, "trainer.max_epochs=1", "backward=direct")
    ours, _ = load_untrained(settings)
    (weights,) = begun
    for name, own in ours.classifier.network.named_parameters():
        assert torch.equal(own, weights[name])


def test_a_picture_is_explained_as_what_it_is_taken_for(
    typed: InProcess, run_folder: RunFolder
) -> None:
    file = _drawing("one=1.png")
    code, out, err = typed("run=run", f"image={file}")
    assert (code, err) == (0, "")
    (prediction,) = predict(load_trained(run_folder), [file])
    name, share = prediction.top[0]
    assert (
        f"one=1.png: true class unknown, predicted {name} ({share:.2%}), loss of class {name}"
        in out
    )
    data = _data(run_folder.path / "explain.html")
    assert data["true_class"] is None
    shutil.copy(file, "b.png")
    assert typed("run=run", "b.png", "label=4")[0] == 0
    assert _data(run_folder.path / "explain.html")["label"] == 4
    assert typed(*UNTRAINED, "b.png")[0] == 0


def _deep_picture(file: Path) -> None:
    Image.fromarray(torch.linspace(0, 1, 784).reshape(28, 28).numpy()).save(file)


def test_what_the_numbers_of_a_deep_picture_mean_is_stated(typed: InProcess) -> None:
    _deep_picture(Path("deep.tif"))
    code, out, err = typed(*UNTRAINED, "deep.tif")
    assert (code, out) == (1, "")
    assert re.search(
        r"deep\.tif: its pixels are floating-point .*for example value_range=\[0,1\]", err
    )
    code, out, err = typed(*UNTRAINED, "deep.tif", "value_range=[0,1]")
    assert (code, err) == (0, "")
    assert "deep.tif: true class" in out


def test_the_data_of_a_run_may_lie_elsewhere(typed: InProcess, run_folder: RunFolder) -> None:
    assert typed("run=run", "data.val_size=100")[0] == 0
    other = ("data=synthetic", "data.image_size=32", "data.size=50", "data.val_size=10")
    code, _, err = typed("run=run", *other)
    assert code == 2
    assert "the network takes 1×28×28 images of 10 classes, but synthetic has 1×32×32" in err
    origin = run_folder.read_provenance()
    origin["dataset"]["checksum"] = "0"
    run_folder.write_provenance(origin)
    code, _, err = typed("run=run")
    assert code == 2
    assert "has another checksum" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run=run", "image=360"), r"image=360: digits has 360 test images, so image= must be 0…359"),
        (("run=run", "image=-1"), "image=-1: digits has 360"),
        ((*UNTRAINED, "image=400"), "image=400: digits has 360 test images"),
        (("run=run", "image=x.png"), "image=x.png: there is no such file; name a picture, or the num"),
        (("run=run", "x.png"), "image=x.png: there is no such file"),
        (("run=run", "a.png", "b.png"), r"a\.png b\.png: one image at a time"),
        (("run=run", "image="), "image=: must be the number of a test image"),
        (("run=run", "label=ten"), "label=ten: there is no such class; known: 0, 1, 2, 3"),
        (("run=run", "lable=3"), "lable=3: there is no key lable; .*Did you mean 'label'"),
        (("run=run", "value_range=[0,1]"), r"value_range=\[0,1\]: goes with a picture file, image="),
        (("run=run", "deep.tif", "value_range=0"), "value_range=0: must be two different numbers"),
        (("run=run", "seed=3"), "seed=3: there is no key seed; known: run, "),
        (("run=run", "checkpoint=first"), "checkpoint=first: must be one of best, last"),
        (("run=nowhere",), "run=nowhere: holds no run"),
        (("run=latest",), "run=latest: there is no run in outputs"),
        (("run=run", "output=no/where.html"), "output=no/where.html: there is no folder no"),
        (("run=run", "output=run"), "output=run: is a folder; name a file"),
        (("checkpoint=best",), "checkpoint=best: goes with run=<folder>"),
        (("imagee=3",), "there is no key 'imagee' in the config. Did you mean 'image'"),
        (("model=lenet",), "model=lenet: unknown choice; known: .*Did you mean 'lenet5'"),
        (("model.chanels=[3]",), r"Did you mean 'model\.channels'"),
        (("data=digits", "model.channels=[4,4,4,4,4]"), "model: .*images of 28×28 are too small"),
        (("model._target_=os.system",), "is not allowed"),
    ],
)  # fmt: skip
def test_misuse_is_one_line_and_writes_nothing(
    arguments: tuple[str, ...], message: str, typed: InProcess, run_folder: RunFolder
) -> None:
    _deep_picture(Path("deep.tif"))
    code, out, err = typed(*arguments)
    assert (code, out) == (2, ""), err
    assert re.search(message, err), err
    assert err.count("\n") == 1
    assert list(Path().rglob("*.html")) == []
    assert list(Path().rglob("*.part")) == []


def test_damage_is_one_line(typed: InProcess, run_folder: RunFolder) -> None:
    Path("bad.png").write_text("no picture")
    code, out, err = typed("run=run", "bad.png")
    assert (code, out) == (1, "")
    assert err == "cnnexp.explain: bad.png: not a picture that can be read: no known format\n"
    run_folder.best_checkpoint.write_bytes(b"x" * 100)
    code, out, err = typed("run=run", "image=0")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert list(Path().rglob("*.html")) == []


def test_a_page_that_is_there_stays_when_the_next_one_cannot_be_written(
    typed: InProcess, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert typed("run=run")[0] == 0
    file = run_folder.path / "explain.html"
    before = file.read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr("cnnexp.runs.files.os.replace", full)
    code, out, err = typed("run=run", "image=3")
    assert (code, out) == (1, "")
    assert "No space left on device" in err
    assert file.read_bytes() == before
    assert list(Path().rglob("*.part")) == []


def test_as_a_process(command: Command) -> None:
    done = command("cnnexp.explain", *SMALL, "model=tiny")
    assert (done.returncode, done.stderr) == (0, "")
    assert "untrained, seed 0; synthetic, test image 0" in done.stdout
    done = command("cnnexp.explain", "image=x.png", "model=tiny", *SMALL)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_help_imports_neither_torch_nor_lightning() -> None:
    program = (
        "import runpy, sys\n"
        "sys.argv = ['cnnexp.explain', '--help']\n"
        "try: runpy.run_module('cnnexp.explain', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'lightning', 'torchvision', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "run=<folder>" in done.stdout
