"""``python -m cnnexp.attack`` as it is typed, on runs that learnt their images by heart, and on others."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cnnexp import attack
from cnnexp.attacks.on_runs import Target, attack_by_loss
from cnnexp.inference import load_trained
from cnnexp.runs import RunFolder
from tests.conftest import InProcess
from tests.inference.conftest import train

SMALL = (
    *("data=digits", "+data.image_size=8", "data.train_size=150", "data.val_size=20"),
    *("data.batch_size=50", "model=seed_cnn", "model.channels=[32]", "backward=native"),
    *("optimizer.lr=2e-2", "accelerator=cpu", "diagnostics=off", "test=false"),
    "logger=csv",
)


@pytest.fixture(scope="session")
def by_heart(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of few images and many epochs."""
    place = tmp_path_factory.mktemp("by_heart") / "run"
    return train(place, *SMALL, "trainer.max_epochs=25")


@pytest.fixture
def typed(in_process: InProcess, by_heart: RunFolder, empty_folder: Path) -> InProcess:
    """Run the command beside a copy of that run, ``runs/one``: exit code, stdout, stderr."""
    shutil.copytree(by_heart.path, empty_folder / "runs" / "one")
    return partial(in_process, attack)


def _content(method: str) -> dict[str, object]:
    return json.loads(Path(f"outputs/attacks/runs/one/{method}/attack.json").read_text())


class _Tags(html.parser.HTMLParser):
    """The tags of a page, and the addresses that it would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]


def test_by_loss(typed: InProcess) -> None:
    code, out, err = typed("run=runs/one", "checkpoint=last")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "runs/one  last.ckpt, epoch 25"
    assert lines[1].split(None, 1)[1] == (
        "150 of digits that it was trained on, and as many test images"
    )
    assert re.search(r"^AUC +0\.\d{4}  \(0\.\d{4} – 0\.\d{4}, 95 %, DeLong\)$", out, re.M)
    assert re.search(r"^TPR at FPR 0\.1% .* 0 false positives of 150$", out, re.M)
    assert "Members can be told from others: AUC 0." in out
    assert lines[-1] == "outputs/attacks/runs/one/loss/attack.html"
    found = _content("loss")
    low, high = found["curve"]["auc_95"]  # pyright: ignore[reportIndexIssue]
    assert 0.55 < low < high < 1
    assert found["accuracy"]["gap"] > 0.03  # pyright: ignore[reportIndexIssue]
    page = Path(lines[-1]).read_text(encoding="utf-8")
    tags = _Tags(page)
    assert {"svg", "polyline", "circle"} <= set(tags.tags)
    assert tags.addresses == []  # the page needs nothing else
    assert "python -m cnnexp.attack run=runs/one checkpoint=last" in page


def test_an_untrained_network_gives_nothing_away(tmp_path: Path) -> None:
    run = train(tmp_path / "run", *SMALL, "trainer.max_epochs=1", "optimizer.lr=1e-9")
    found = attack_by_loss(Target.of_run(load_trained(run)))
    low, high = found.curve.auc_interval()
    assert low < 0.5 < high


def test_by_shadows_and_again(typed: InProcess, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    given = ("run=runs/one", "checkpoint=last", "method=lira", "shadows=4", "jobs=2", "threads=1")
    code, out, err = typed(*given)
    assert code == 0, err
    assert caplog.text.count("  done  ") == 4
    found = _content("lira")
    low, _ = found["curve"]["auc_95"]  # pyright: ignore[reportIndexIssue]
    assert low > 0.55
    assert found["shadows"] == 4
    folders = sorted(Path("outputs/attacks/runs/one/lira/shadows").glob("*/config.yaml"))
    assert len(folders) == 4
    code, again, err = typed(*given)  # nothing is trained again
    assert (code, again) == (0, out)
    assert caplog.text.count("is done already") == 4


def test_an_audit_of_a_run_that_promises_too_much(typed: InProcess) -> None:
    given = ("run=runs/one", "method=audit", "canaries=100", "threads=1")
    code, out, err = typed(*given)
    assert code == 0, err
    assert out.splitlines()[0] == "runs/one  last.ckpt, epoch 25"
    bound = re.search(r"ε ≥ (\d\.\d\d) with 95% confidence; the training claims no ε\.", out)
    assert bound is not None
    assert float(bound[1]) > 1  # wrong labels are learnt by heart
    assert "100 canaries (random patterns and labels): " in out
    # the same with a claim, which a private training writes into result.json
    audit = _content("audit")["audit"]
    training = RunFolder(audit["training"])  # pyright: ignore[reportIndexIssue]
    for folder in (RunFolder("runs/one"), training):
        claim = {"privacy/epsilon": 0.5, "privacy/delta": 1e-5}
        folder.write_result({**folder.read_result(), **claim})
    code, out, err = typed(*given)
    assert code == 0, err
    assert "REFUTED: ε ≥ " in out
    assert "but the training claims ε = 0.5 at δ = 1e-05" in out
    page = Path("outputs/attacks/runs/one/audit/attack.html").read_text(encoding="utf-8")
    assert 'class="claim"' in page
    code, _, err = typed(*given, "delta=1e-3")
    assert code == 2
    assert "delta=1e-3: the run claims its ε at δ = 1e-05" in err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["method=guess"], "method=guess: must be one of loss, lira, audit"),
        (["shadows=8"], "shadows=8: goes with method=lira, not loss"),
        (["threads=1"], "threads=1: goes with method=lira or audit, not loss"),
        (["method=lira", "canaries=8"], "canaries=8: goes with method=audit, not lira"),
        (
            ["method=lira", "shadows=1"],
            "shadows=1: must be at least 4, two with each image and two",
        ),
        (["method=lira", "shadows=many"], "shadows=many: must be a whole number, at least 0"),
        (["method=lira", "jobs=0"], "hydra.launcher.jobs=0: must be auto or a whole number"),
        (["method=audit", "canaries=400"], "canaries=400: must be at least 2 and at most the 150"),
        (["method=audit", "canary=bird"], "canary=bird: must be one of pattern, label"),
        (["method=audit", "delta=2"], "delta=2: must be a number from 0 to below 1, such as 1e-5"),
        (
            ["data=synthetic", "data.image_size=8"],
            "so that nobody knows its members; set data.root",
        ),
        (["which=3"], "which=3: chooses among the jobs of a sweep, but run=runs/one is one run"),
        (
            ["output=runs/one/config.yaml"],
            "output=runs/one/config.yaml: runs/one/config.yaml is no folder",
        ),
    ],
)
def test_misuse_is_one_message(typed: InProcess, given: list[str], message: str) -> None:
    code, out, err = typed("run=runs/one", *given)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not Path("outputs").exists()  # nothing is left behind


def test_a_run_without_checkpoint(typed: InProcess) -> None:
    shutil.rmtree("runs/one/checkpoints")
    code, _, err = typed("run=runs/one")
    assert code == 1
    assert "best.ckpt" in err or "last.ckpt" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("kind", "loss"), [("numbers", "mse"), ("labels", "binary_cross_entropy")])
def test_runs_of_labels_and_numbers_are_refused(kind: str, loss: str, typed: InProcess) -> None:
    random = np.random.default_rng(0)
    labels = random.random(40) if kind == "numbers" else random.integers(0, 2, (40, 2))
    np.savez(
        f"{kind}.npz", images=random.integers(0, 256, (40, 8, 8), dtype=np.uint8), labels=labels
    )
    given = ("data=arrays", f"data.file={kind}.npz", f"loss={loss}", "checkpoint.monitor=val/loss")
    small = ("model=tiny", "backward=native", "accelerator=cpu", "trainer.max_epochs=1")
    train(Path("runs") / kind, *given, *small, "diagnostics=off")
    code, out, err = typed(f"run=runs/{kind}")
    assert (code, out) == (2, "")
    assert f"gives {kind}, not one class an image, which cnnexp.attack needs" in err
    assert err.count("\n") == 1
    assert not Path("outputs").exists()
