"""The guide for adding one's own, followed to the letter."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cnnexp.regularization import EVENTS, Regularizer
from cnnexp.runs import RunFolder
from tests.conftest import ROOT, Command

GUIDE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = re.findall(r"`(my[^`]+\.(?:py|yaml))`[^`]*```(?:python|yaml)\n(.*?)```", GUIDE, re.S)
COMMANDS = re.findall(r"^python -m (cnnexp\.train .*)$", GUIDE, re.M)


@pytest.fixture
def guide_files(empty_folder: Path) -> None:
    for name, content in FILES:
        file = empty_folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


def test_the_guide_adds_optimisers_a_regulariser_data_and_a_recipe() -> None:
    names = {name for name, _ in FILES}
    assert names >= {"mylab.py", "mydata.py", "myconf/optimizer/asgd.yaml"}
    assert names >= {"myconf/data/stripes.yaml", "myconf/experiment/quick.yaml"}
    assert names >= {"mylasso.py", "myconf/regularization/group_lasso.yaml"}
    assert names >= {"mysoftplus.py", "mysoftplus_test.py"}
    assert len(COMMANDS) == 5
    assert GUIDE.count("```yaml") + GUIDE.count("```python") == len(FILES)


@pytest.mark.parametrize("line", COMMANDS)
@pytest.mark.usefixtures("guide_files")
def test_every_command_of_the_guide_trains(line: str, command: Command, empty_folder: Path) -> None:
    done = command(*shlex.split(line), "accelerator=cpu", "backward=direct", "logger=csv")
    assert done.returncode == 0, done.stderr
    (file,) = empty_folder.glob("outputs/train/*/*/result.json")
    result = json.loads(file.read_text(encoding="utf-8"))
    assert result["dataset"] == ("stripes" if "stripes" in line else "digits")
    if "stripes" in line:
        assert result["test/acc"] > 0.9
    if "group_lasso" in line:
        rows = RunFolder(file.parent).read_metrics()
        terms = [row["value"] for row in rows if row["name"] == "train/penalty/group_lasso"]
        assert terms
        assert all(term > 0 for term in terms)


@pytest.mark.usefixtures("guide_files")
def test_a_trained_network_is_used_without_its_regulariser(
    command: Command, empty_folder: Path
) -> None:
    (line,) = (line for line in COMMANDS if "group_lasso" in line)
    trained = command(
        *shlex.split(line), "accelerator=cpu", "backward=direct", "logger=csv", "hydra.run.dir=run"
    )
    assert trained.returncode == 0, trained.stderr
    (empty_folder / "mylasso.py").unlink()
    done = command("cnnexp.evaluate", "run=run")
    assert done.returncode == 0, done.stderr


def test_the_guide_lists_the_events_of_a_step_in_their_order() -> None:
    assert re.findall(r"^\| `(\w+)\(", GUIDE, re.M) == list(EVENTS)
    assert re.findall(r"^ {4}``(\w+)`` {2}", Regularizer.__doc__ or "", re.M) == list(EVENTS)


@pytest.mark.usefixtures("guide_files")
def test_what_the_guide_says_is_refused_is_refused(command: Command, empty_folder: Path) -> None:
    start = ("cnnexp.train", "--config-dir", "myconf", "validate_only=true")
    asgd = command(*start, "data=digits", "optimizer=asgd", "+optimizer.lrr=0.1")
    assert asgd.returncode == 2
    assert "torch.optim.ASGD takes no argument 'lrr'. Did you mean 'lr'?" in asgd.stderr
    not_allowed = command(*start, "data=stripes")
    assert not_allowed.returncode == 2
    assert "data._target_=mydata.load_stripes is not allowed" in not_allowed.stderr
    assert "add allow_targets=[mydata.] to the command line" in not_allowed.stderr
    lasso = (*start, "data=digits", "regularization=group_lasso")
    not_allowed = command(*lasso)
    assert not_allowed.returncode == 2
    assert "regularization.group_lasso._target_=mylasso.GroupLasso is not all" in not_allowed.stderr
    misspelt = command(*lasso, "allow_targets=[mylasso.]", "+regularization.group_lasso.strenght=1")
    assert misspelt.returncode == 2
    assert "takes no argument 'strenght'. Did you mean 'strength'?" in misspelt.stderr
    for value, why in (("-1", "refuses its arguments: strength must be"), ("red", "a number, but")):
        given = f"regularization.group_lasso.strength={value}"
        refused = command(*lasso, "allow_targets=[mylasso.]", given)
        assert refused.returncode == 2
        assert why in refused.stderr
    assert not (empty_folder / "outputs").exists()


@pytest.mark.usefixtures("guide_files")
def test_the_op_of_the_guide_passes_its_own_test(command: Command) -> None:
    done = command("pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "mysoftplus_test.py")
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_an_op_in_cnnexp_itself_takes_three_files(tmp_path: Path) -> None:
    """The steps of CONTRIBUTING.md, followed in a copy of the sources and the tests."""
    for part in ("src/cnnexp", "tests", "conf", "pyproject.toml"):
        source, target = ROOT / part, tmp_path / part
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    code = dict(FILES)["mysoftplus.py"]
    op, _, layer = code.partition("@replaces")
    file = tmp_path / "src/cnnexp/ops/softplus.py"
    file.write_text(op.replace("from cnnexp.nn import Layer, replaces\n", ""), encoding="utf-8")
    _change(
        tmp_path / "src/cnnexp/nn/activation.py",
        {
            '"Tanh"]\n': '"Softplus", "Tanh"]\n',
            "import replaces\n": "import replaces\nfrom cnnexp.ops.softplus import softplus\n",
            "\n\n@replaces(nn.Tanh)": f"\n\n@replaces{layer}\n\n@replaces(nn.Tanh)",
        },
    )
    row = "([0.0, 30.0, -100.0], [4.0, 5.0, 6.0], [0.6931472, 30.0, 0.0], [2.0, 5.0, 0.0])"
    _change(
        tmp_path / "tests/ops/test_by_hand.py",
        {"POINTWISE = {": f'POINTWISE = {{\n    "softplus": {row},'},
    )
    # all that is parametrised over the ops, and asks that each has its cases
    names = "softplus or Softplus or every"
    where = ["tests/ops", "tests/nn/test_layers.py", "tests/nn/test_empty_batches.py"]
    options = ["-q", "-n0", "-p", "no:cacheprovider", "-k", names]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *where],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    (count,) = re.findall(r"^(\d+) passed", done.stdout, re.M)
    assert int(count) > 50


def _change(file: Path, changes: dict[str, str]) -> None:
    text = file.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")
