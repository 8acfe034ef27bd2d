"""Everything that a training writes is in the table of keys, and the other way round."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnnexp.data import ImageDataModule, load_digits
from cnnexp.diagnostics import DiagnosticsSettings
from cnnexp.diagnostics import keys as table
from cnnexp.diagnostics.keys import chart_layout
from cnnexp.models import SeedCNN
from cnnexp.optim import param_groups
from cnnexp.runs import RunFolder
from cnnexp.training import run_training
from tests.training.resumable import new_folder, small_job

LEVELS = ("always", "basic", "full")


@dataclass(frozen=True)
class Key:
    """A row of the table."""

    name: str
    kind: str
    level: str
    meaning: str

    def fits(self, tag: str) -> bool:
        """Whether ``tag`` is a key that this row describes."""
        pattern = re.sub(r"<\w+>", ".+", re.sub(r"([.+?*])", r"\\\1", self.name))
        return re.fullmatch(pattern, tag) is not None


def known_keys() -> list[Key]:
    assert table.__doc__ is not None
    lines = table.__doc__.split("\n====")[2].split("\n")[1:]
    return [Key(*re.split(r"\s{2,}", line.strip())) for line in lines if line.strip()]


def _kinds(folder: RunFolder) -> dict[str, str]:
    """Kind by tag, of TensorBoard's files."""
    events = EventAccumulator(str(folder.tensorboard)).Reload()
    tags = events.Tags()
    found = dict.fromkeys(tags["scalars"], "scalar")
    found |= dict.fromkeys(tags["images"], "image")
    found |= dict.fromkeys(tags["histograms"], "histogram")
    for plugin, kind in (("text", "text"), ("pr_curves", "pr curve")):
        with suppress(KeyError):  # there is none of it
            found |= dict.fromkeys(events.PluginTagToContent(plugin), kind)
    found |= {"graph": "graph"} if tags["graph"] else {}
    if (folder.tensorboard / "projector_config.pbtxt").exists():
        found["embedding"] = "embedding"
    return found


def _job(level: str) -> Any:
    def optimizer(network: Any) -> Any:
        import torch

        groups = param_groups(network, lr=0.5, lr_scale={"classifier": 3.0})
        return torch.optim.SGD(groups, lr=0.5)

    data = ImageDataModule(load_digits, batch_size=32, val_size=44, train_size=170)
    return small_job(
        data=data,
        network=lambda images: SeedCNN(channels=[4, 8], activation="sigmoid"),
        optimizer=optimizer,
        diagnostics=DiagnosticsSettings(level, 2, landscape_every=1, sharpness_iterations=2),
    )


@pytest.fixture(scope="module", params=["off", "basic", "full"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = new_folder(tmp_path_factory.mktemp(request.param) / "run")
    run_training(_job(request.param), folder)
    return request.param, folder


def _due(level: str) -> list[Key]:
    reached = {"off": 0, "basic": 1, "full": 2}[level]
    return [key for key in known_keys() if LEVELS.index(key.level) <= reached]


@pytest.mark.parametrize("interval", [1, 3])
def test_the_intervals_are_at_the_steps_of_the_accuracies(interval: int, tmp_path: Path) -> None:
    trainer = {"max_epochs": 2, "accelerator": "cpu", "accumulate_grad_batches": 2}
    folder = new_folder(tmp_path / "run")
    job = _job("basic")
    job.trainer = {**trainer, "val_check_interval": interval}
    run_training(job, folder)
    events = EventAccumulator(str(folder.tensorboard), {"scalars": 0}).Reload()
    for name in ("train/acc", "val/acc"):
        tags = (name, f"margin/{name}/low", f"margin/{name}/high")
        steps = [[e.step for e in events.Scalars(tag)] for tag in tags]
        assert steps[0] == steps[1] == steps[2], name


NOT_OF_THIS_RUN = {
    "train/lr",
    "health/text_summary",
    "verdict/text_summary",
}  # rates by layer; nothing is said of a healthy run


def test_what_is_written_is_in_the_table_and_the_other_way_round(run: Any) -> None:
    level, folder = run
    found = _kinds(folder)
    for tag, kind in found.items():
        rows = [key for key in _due(level) if key.fits(tag)]
        assert len(rows) == 1, (tag, rows)
        assert rows[0].kind == kind, tag
    for key in _due(level):
        if key.name not in NOT_OF_THIS_RUN:
            assert any(key.fits(tag) for tag in found), key.name
    scalars = {row["name"] for row in folder.read_metrics()}
    expected = {t for t, kind in found.items() if kind == "scalar"}
    elsewhere = {t for t in expected if t == "epoch" or t.startswith(("hp/", "margin/"))}
    assert scalars == expected - elsewhere


def test_the_table_is_well_formed() -> None:
    keys = known_keys()
    assert len(keys) > 35
    assert all(key.level in LEVELS and key.meaning for key in keys)
    assert max(Counter(key.name for key in keys).values()) == 1


def test_the_charts_show_what_is_there(run: Any) -> None:
    level, folder = run
    if level == "off":
        return
    events = EventAccumulator(str(folder.tensorboard), {"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    layout = chart_layout(["features.0", "features.3", "classifier"])
    for group, charts in layout.items():
        for title, (kind, names) in charts.items():
            if group == "loss landscape" and level != "full":
                continue
            if kind == "Multiline":
                hits = [[t for t in tags if re.search(name, t)] for name in names]
                assert all(len(hit) == 1 for hit in hits), title
            else:  # TensorBoard draws them only if all three have the same steps
                steps = [[e.step for e in events.Scalars(name)] for name in names]
                assert steps[0] == steps[1] == steps[2], title
                assert len(steps[0]) == 3
    low, value, high = (
        events.Scalars(t)[-1].value
        for t in ("margin/val/acc/low", "val/acc", "margin/val/acc/high")
    )
    assert low < value <= high
