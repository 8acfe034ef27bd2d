"""The console scripts do what ``python -m cnnexp.…`` does, modules of the current folder included."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest

from cnnexp.commandline import import_from_here
from cnnexp.runs import RunFolder
from tests.test_house import PROJECT

# For each script arguments that get as far as its own checks, and what these say
REFUSED = {
    "cnnexp-attack": (["run=nowhere"], "run=nowhere: holds no run"),
    "cnnexp-bench": (["ops", "--op", "nowhere"], "--op=nowhere: unknown"),
    "cnnexp-diagnose": (["run=nowhere"], "run=nowhere: holds no run"),
    "cnnexp-evaluate": (["run=nowhere"], "run=nowhere: holds no run"),
    "cnnexp-explain": (["run=nowhere"], "run=nowhere: holds no run"),
    "cnnexp-export": (["run=nowhere"], "run=nowhere: holds no run"),
    "cnnexp-grade": (["nothing", "x.py"], "nothing: no op that can be graded"),
    "cnnexp-gradcheck": (["--op", "nowhere"], "--op=nowhere: unknown"),
    "cnnexp-lr-find": (["data.batch_sise=3"], "there is no key"),
    "cnnexp-new": (["no-name"], "no-name: must be the name of a Python package"),
    "cnnexp-predict": (["run=nowhere", "x.png"], "run=nowhere: holds no run"),
    "cnnexp-report": (["nowhere"], "nowhere: there is no such folder"),
    "cnnexp-sweep": (["status", "nowhere"], "nowhere: no such sweep"),
    "cnnexp-train": (["run=nowhere"], "run=nowhere: holds no run"),
}
SCRIPTS = PROJECT["project"]["scripts"]
SMALL = (
    *("data=digits", "data.train_size=32", "data.val_size=10", "model=lenet5", "backward=direct"),
    *("accelerator=cpu", "trainer.max_epochs=1", "logger=csv", "diagnostics=off", "test=false"),
)
OWN = """
from torch import nn
class Own(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, num_classes))
"""


def run_script(
    name: str, arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> object:
    """Run the script ``name`` as pip writes it, with the ``sys.path`` that Python gives to it."""
    module, function = SCRIPTS[name].split(":")
    file = folder / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    others = [place for place in sys.path if place not in ("", str(Path.cwd()))]
    monkeypatch.setattr(sys, "path", [str(file.parent), *others])
    monkeypatch.setattr(sys, "argv", [str(file), *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(file), run_name="__main__")
    return end.value.code


def test_every_script_is_tried() -> None:
    assert set(REFUSED) == set(SCRIPTS)


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_imports_from_the_current_folder(
    name: str,
    empty_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = f"own_{name.replace('-', '_')}"
    (empty_folder / f"{own}.py").write_text("answer = 42\n")
    arguments, message = REFUSED[name]
    place = tmp_path_factory.mktemp("scripts")
    assert run_script(name, arguments, place, monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert sys.path[0] == str(empty_folder)  # where python -m has it
    importlib.invalidate_caches()
    assert importlib.import_module(own).answer == 42


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "sweep"])
def test_a_network_of_ones_own_is_trained_and_evaluated_by_the_scripts(
    flags: list[str],
    empty_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = "own_net" + "_of_a_sweep" * len(flags)
    (empty_folder / f"{module}.py").write_text(OWN)
    place = tmp_path_factory.mktemp("scripts")
    model = [f"model={{_target_: {module}.Own}}", f"allow_targets=[{module}.]"]
    train = [*flags, *SMALL, "~model", f"+{model[0]}", model[1], "name=own"]
    code = run_script("cnnexp-train", train, place, monkeypatch)
    assert code == 0, capsys.readouterr().err
    (run,) = [RunFolder(file.parent) for file in empty_folder.rglob("result.json")]
    capsys.readouterr()
    evaluate = [f"run={run}", f"allow_targets=[{module}.]", "split=val"]
    assert run_script("cnnexp-evaluate", evaluate, place, monkeypatch) == 0
    assert "digits val, 10 images" in capsys.readouterr().out


def test_where_python_is_told_to_be_safe_the_current_folder_is_left_out(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = ["/elsewhere"]
    monkeypatch.setattr(sys, "path", places)
    monkeypatch.setattr("cnnexp.commandline.sys.flags", type("Flags", (), {"safe_path": True}))
    import_from_here()
    assert places == ["/elsewhere"]
