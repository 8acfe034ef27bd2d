"""The commands and the links of the documentation."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnnexp.config import Composer
from cnnexp.config.hydra_settings import for_all, for_sweep, sweep_overrides
from cnnexp.config.resolvers import register_resolvers
from tests.conftest import ROOT, Command
from tests.warm_commands import run_warm

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# what makes a documented training short, without changing what it does
SHORT = ("data=digits", "model=lenet5", "trainer.max_epochs=1", "accelerator=cpu")


def _blocks(file: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", file.read_text(encoding="utf-8"), re.M | re.S)


def _commands(file: Path) -> list[str]:
    lines = [
        line.partition(" #")[0].strip()
        for block in _blocks(file, "")
        for line in block.replace("\\\n", " ").split("\n")
    ]
    return [
        line for line in lines if line.startswith(("make ", "python -m cnnexp", "tensorboard "))
    ]


README_COMMANDS = _commands(ROOT / "README.md")
TRAININGS = sorted(
    {c for f in DOCUMENTS for c in _commands(f) if c.startswith("python -m cnnexp.train")}
)
USES = sorted(
    {
        c
        for f in DOCUMENTS
        for c in _commands(f)
        if re.match(r"python -m cnnexp\.(evaluate|predict|explain|export|report|sweep) ", c)
    }
)


def test_the_readme_names_the_two_commands_first() -> None:
    assert README_COMMANDS[:2] == ["make train", "make test"]
    assert any(c.startswith("tensorboard") for c in README_COMMANDS)
    assert len(TRAININGS) >= 6


@pytest.mark.parametrize(
    "line",
    [
        c
        for c in README_COMMANDS
        if c.startswith("python -m") and c not in USES and "cnnexp.grade" not in c
    ],
)
def test_every_training_of_the_readme_runs(line: str, command: Command, empty_folder: Path) -> None:
    short = [*SHORT, "logger=csv"] if " -m " in line[len("python -m") :] else [*SHORT]
    arguments = shlex.split(line)[2:] + ([] if "--" in line else short)
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    results = list(empty_folder.rglob("result.json"))
    if "--" not in line:
        assert len(results) == (4 if " -m " in line[len("python -m") :] else 1)
        assert all(json.loads(file.read_text())["status"] == "done" for file in results)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a sweep of one run leaves, and pictures to look at."""
    place = tmp_path_factory.mktemp("used")
    sweep = ("-m", "sweep.name=opt", "seed=0")
    train = ("cnnexp.train", *sweep, *SHORT, "regularization=ema", "logger=csv")
    run_warm(train, os.environ, place).check_returncode()
    sweeps = place / "outputs" / "sweeps"
    for name in ("compare_optimizers", "cv"):  # the former's runs would take an hour
        shutil.copytree(sweeps / "opt", sweeps / name)
    picture = Image.new("L", (50, 70), 255)
    picture.paste(0, (22, 10, 27, 60))
    (place / "scans").mkdir()
    for file in ("photo.jpg", "scans/a.png", "scans/b.png"):
        picture.save(place / file)
    return place


@pytest.mark.parametrize("command", [c for c in USES if "data=" not in c and " retry " not in c])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # exporters'
def test_every_use_of_a_trained_network_runs(
    command: str,
    outputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(outputs)
    module, *arguments = shlex.split(command)[2:]
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(module).main()
    said = capsys.readouterr()
    assert stop.value.code == 0, said.err
    assert said.out


# run= is no key of the config: tests/test_train_resume.py
@pytest.mark.parametrize("command", [c for c in TRAININGS if "--" not in c and " run=" not in c])
def test_every_documented_override_fits_the_config(command: str, empty_folder: Path) -> None:
    register_resolvers()
    overrides = shlex.split(command)[3:]
    composer = Composer("train")
    sweep = overrides[:1] == ["-m"]
    jobs = [overrides]
    if sweep:
        given = composer.with_params(sweep_overrides(overrides[1:]))
        made = [*for_all(), *for_sweep(composer.whole(given)), "hydra.mode=MULTIRUN"]
        jobs = composer.jobs([*made, *given]).overrides
    for job in jobs:
        composer.compose(job)


def _make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "-C", str(ROOT), *arguments]
    outer = (
        "ARGS",
        "MAKEFLAGS",
        "MAKELEVEL",
        "MAKEOVERRIDES",
        "RESOLVED",
        "VENV",
    )  # of a make around
    env = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=env
    )


def test_make_sets_up_once_and_passes_overrides_on(tmp_path: Path) -> None:
    venv = f"VENV={tmp_path}"
    setup = '-m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"'
    assert setup in _make("-n", "train", venv).stdout
    (tmp_path / ".installed").touch()  # newer than pyproject.toml: set up
    assert "pip" not in _make("-n", "train", venv).stdout
    assert f"{tmp_path}/bin/python -m pytest" in _make("-n", "test", venv).stdout
    planned = _make("-n", "train", venv, "ARGS=optimizer=sgd trainer.max_epochs=3").stdout
    line = f"{tmp_path}/bin/python -m cnnexp.train optimizer=sgd trainer.max_epochs=3"
    assert line in planned.splitlines()


def test_make_train_trains(empty_folder: Path) -> None:
    if not (Path(sys.prefix) / ".installed").exists():
        pytest.skip("this environment was not set up by make")
    overrides = " ".join([*SHORT, f"output_dir={empty_folder}"])
    # what these tests run in stays as it is, be pyproject.toml newer
    kept = f"--old-file={sys.prefix}/.installed"
    done = _make(kept, "train", f"VENV={sys.prefix}", f"ARGS={overrides}")
    assert done.returncode == 0, done.stderr
    assert len(list(empty_folder.rglob("result.json"))) == 1


def test_tensorboard_shows_a_run(empty_folder: Path) -> None:
    train = ("cnnexp.train", *SHORT, "diagnostics=full")
    run_warm(train, os.environ, empty_folder).check_returncode()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = shlex.split(next(c for c in README_COMMANDS if c.startswith("tensorboard")))[1:]
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tensorboard.main",
            *command,
            "--port",
            str(port),
            "--host",
            "127.0.0.1",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def asked(plugin: str) -> Any:
        address = f"http://127.0.0.1:{port}/data/plugin/{plugin}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            return json.load(answer)

    try:
        tags: dict[str, object] = {}
        end = time.monotonic() + 60
        while not tags and time.monotonic() < end:
            try:
                tags = asked("scalars/tags")
            except urllib.error.URLError:
                time.sleep(0.3)
            time.sleep(0.2)
        pages = {p: asked(f"{p}/tags") for p in ("images", "histograms", "pr_curves")}
        layout, graphs = asked("custom_scalars/layout"), asked("graphs/info")
        projector = asked("projector/runs")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)
    ((run, scalars),) = tags.items()
    assert run.startswith("train/lenet5/")
    assert {"train/loss", "val/acc", "test/acc"} <= set(scalars)  # pyright: ignore
    assert {"gradient_flow", "features/features.0", "test/worst"} <= set(pages["images"][run])
    assert "histogram/activation/features.0" in pages["histograms"][run]
    assert "test/pr/7" in pages["pr_curves"][run]
    charts = {chart["title"] for group in layout["category"] for chart in group["chart"]}
    assert {"‖∂L/∂a‖ by layer", "val/acc with its 95 % interval"} <= charts
    assert graphs[run]["run_graph"] or graphs[run]["tags"]
    assert projector == [run]


EXAMPLES = [block for file in DOCUMENTS for block in _blocks(file, "python")]


@pytest.mark.parametrize("example", [block for block in EXAMPLES if "load_run(" in block])
def test_examples_that_load_a_run_do(
    example: str,
    outputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # a run of one's own objects would be the latest one of the other examples
    monkeypatch.chdir(tmp_path if "cnnexp.fit(" in example else outputs)
    exec(compile(example, "example", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out


def test_python_examples_run(empty_folder: Path) -> None:
    # a test of a guide's own file is run beside that file, in test_extending.py
    elsewhere = ("load_run(", "from mysoftplus import")
    examples = [block for block in EXAMPLES if not any(each in block for each in elsewhere)]
    assert len(EXAMPLES) > len(examples) > 3
    strict = "import warnings; warnings.simplefilter('error', UserWarning)\n"
    future = "from __future__ import annotations\n"
    for number, example in enumerate(examples):
        (empty_folder / f"example{number}.py").write_text(
            example.replace(future, future + strict) if future in example else strict + example,
            encoding="utf-8",
        )
        done = run_warm((f"example{number}",), os.environ, empty_folder)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda f: f.name)
def test_links_lead_somewhere(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r' src="([^"]+)"', text):
        if "://" not in target:
            assert (file.parent / target).exists(), target
    for path in re.findall(r"`((?:src|tests|conf|docs|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
