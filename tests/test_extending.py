"""The guide for adding one's own, followed to the letter."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

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
    assert len(COMMANDS) == 5
    assert GUIDE.count("```yaml") + GUIDE.count("```python") == len(FILES)


@pytest.mark.parametrize("line", COMMANDS)
@pytest.mark.usefixtures("guide_files")
def test_every_command_of_the_guide_trains(line: str, command: Command, empty_folder: Path) -> None:
    done = command(*shlex.split(line), "accelerator=cpu", "backward=direct")
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
