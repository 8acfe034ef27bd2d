"""The table of what each key of a config means, and the four things that are read from it."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cnnexp import regularization
from cnnexp.config import ConfigError
from cnnexp.config.resumption import check_resumable, run_identity
from cnnexp.config.schema import DataConfig, TrainConfig
from cnnexp.regularization import Regularizer
from cnnexp.reporting import gather, settings_that_differ
from cnnexp.runs import RunFolder, config_hash, keys
from cnnexp.runs.keys import KEYS, Key, meaning, resumable_keys
from cnnexp.training.hparams import hyperparameters
from tests.conftest import ROOT

CONFIG: dict[str, Any] = {
    "name": "lenet5",
    "output_dir": "outputs",
    "validate_only": False,
    "seed": 3,
    "on_nan": "stop",
    "test": True,
    "trainer": {"_target_": "lightning.Trainer", "max_epochs": 10, "log_every_n_steps": 10},
    "parameters": {"frozen": [], "lr_scale": {}, "decay_all": False},
    "checkpoint": {"monitor": "val/acc", "every_n_steps": None},
    "sweep": {"name": "lenet5", "retry": None},
    "callbacks": {},
    "allow_targets": [],
    "data": {
        "_target_": "cnnexp.data.load_mnist",
        "root": "data",
        "download": True,
        "fallback": "digits",
        "batch_size": 128,
        "eval_batch_size": 500,
        "val_size": 5000,
        "train_size": None,
        "classes": None,
        "split_seed": 3,
        "num_workers": 0,
    },
    "model": {"_target_": "cnnexp.models.LeNet5", "dropout": 0.0},
    "backward": {"name": "auto", "layers": None},
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.001, "betas": [0.9, 0.999]},
    "scheduler": {"_target_": None},
    "regularization": {"l2": {"strength": 0.0005}},
    "accelerator": {"name": "auto", "devices": 1, "precision": "32-true", "channels_last": True},
    "diagnostics": {"name": "basic", "every": 20, "health": {"window": 50}},
    "logger": {"tensorboard": {"_target_": "lightning.pytorch.loggers.TensorBoardLogger"}},
}


def _with(**parts: Any) -> dict[str, Any]:
    """``CONFIG`` with other parts; of a part that is a mapping, with other keys."""
    return {
        **CONFIG,
        **{
            part: {**CONFIG[part], **value} if isinstance(value, dict) else value
            for part, value in parts.items()
        },
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": CONFIG,
    "elsewhere": _with(name="x", output_dir="y", sweep={"name": "z"}, data={"root": "w"}),
    "without what came later": {
        key: value for key, value in CONFIG.items() if key not in ("on_nan", "test", "diagnostics")
    },
    "chosen layers": _with(backward={"layers": {"features.0": "direct"}}),
    "other helpers": _with(data={"num_workers": 2}, checkpoint={"every_n_steps": 5}),
    "looks more often": _with(diagnostics={"every": 1}),
    "another seed": _with(seed=4),
    "a longer one": _with(trainer={"max_epochs": 20}),
    "another rate": _with(optimizer={"lr": 0.01}),
    "all that is measured": _with(diagnostics={"name": "full"}),
    "skips": _with(on_nan="skip"),
    "no test": _with(test=False),
    "another device": _with(accelerator={"name": "gpu"}),
    "nothing logged": {**CONFIG, "logger": {}},
    "a key of nobody": {**CONFIG, "mine": None, "yours": {"a": None}},
}

# the hash of the job, and the identity that checkpoints carry, as version 0.1.0 made them
HASHES = {
    "as it is": ("4b32a899407f", "dd79ddb97915"),
    "elsewhere": ("4b32a899407f", "dd79ddb97915"),
    "without what came later": ("4b32a899407f", "dd79ddb97915"),
    "chosen layers": ("4b32a899407f", "dd79ddb97915"),
    "other helpers": ("4b32a899407f", "dd79ddb97915"),
    "looks more often": ("4b32a899407f", "dd79ddb97915"),
    "another seed": ("53271d574896", "1ac6a33f07b6"),
    "a longer one": ("10baf2353de8", "dd79ddb97915"),
    "another rate": ("02bdfa12477c", "ee203af20271"),
    "all that is measured": ("e4c6827efd20", "dd79ddb97915"),
    "skips": ("725c929b4af0", "dd79ddb97915"),
    "no test": ("72393247e3e5", "68f1b75d4911"),
    "another device": ("bcd175aaea46", "dd79ddb97915"),
    "nothing logged": ("3e2ced2d9e5f", "dd79ddb97915"),
    "a key of nobody": ("9befbde62660", "dd79ddb97915"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_hashes_are_those_of_the_first_version(name: str) -> None:
    config = VARIANTS[name]
    assert (config_hash(config), run_identity(config)) == HASHES[name]


def test_what_may_change_on_resume_is_what_it_was_in_the_first_version() -> None:
    assert resumable_keys() == [
        *("trainer.max_epochs", "trainer.enable_progress_bar", "checkpoint.every_n_steps"),
        *("data.root", "data.download", "data.fallback", "data.num_workers"),
        *("name", "output_dir", "sweep", "logger", "validate_only", "allow_targets"),
        *("backward.layers", "accelerator.name", "accelerator.devices"),
        "accelerator.steps_per_call",  # which came later, and changes no number
        *("on_nan", "diagnostics"),
    ]


def test_the_hyperparameters_are_those_of_the_first_version() -> None:
    shown = hyperparameters(_with(backward={"layers": {"features.0": "fft"}}))
    assert list(shown.items()) == [
        ("seed", 3),
        ("data", "cnnexp.data.load_mnist"),
        ("data.batch_size", 128),
        ("data.eval_batch_size", 500),
        ("data.val_size", 5000),
        ("data.split_seed", 3),
        ("data.num_workers", 0),
        ("model", "cnnexp.models.LeNet5"),
        ("model.dropout", 0.0),
        ("backward.name", "auto"),
        ("backward.layers.features.0", "fft"),
        ("optimizer", "torch.optim.Adam"),
        ("optimizer.lr", 0.001),
        ("optimizer.betas", "[0.9, 0.999]"),
        ("regularization.l2.strength", 0.0005),
    ]


def test_reports_hide_what_they_hid_in_the_first_version() -> None:
    """But for the monitor, which chooses the weights that are tested."""
    hidden = {key for key, row in KEYS.items() if not row.report}
    assert hidden == {
        *("seed", "name", "output_dir", "sweep", "sweep.name", "sweep.retry", "hydra"),
        *("logger", "validate_only", "allow_targets", "backward.layers"),
        *("logger.mlflow", "logger.wandb"),
        *("debug", "debug.name"),  # whose runs are in no report
        "accelerator.steps_per_call",  # which came later, and changes no number
        *("checkpoint", "checkpoint.every_n_steps"),
        *("data.root", "data.download", "data.fallback", "data.num_workers"),
        "data.fold",  # came later: as with seeds, a report gives the mean
    }


def _without_a_row(schema: type) -> list[str]:
    return [key for key in _declared(schema) if key not in keys.KEYS]


def _declared(schema: type) -> Iterator[str]:
    """The keys of ``schema`` and of its parts; a regulariser's knobs are like their part."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        yield field.name
        part = hints[field.name]
        if dataclasses.is_dataclass(part) and field.name != "regularization":
            inner = [each.name for each in dataclasses.fields(part) if each.name != "load"]
            yield from (f"{field.name}.{name}" for name in inner)


def test_every_key_of_the_schema_has_a_row() -> None:
    assert _without_a_row(TrainConfig) == []


def test_every_row_is_of_a_key_that_there_is() -> None:
    loader = {"data.root", "data.download", "data.fallback"}  # arguments of the loaders
    of_lightning = {"trainer.max_epochs", "trainer.enable_progress_bar"}
    trackers = {"logger.mlflow", "logger.wandb"}
    knobs = {
        f"regularization.{method.name}.{knob.name}"
        for method in vars(regularization).values()
        if isinstance(method, type) and is_dataclass(method) and issubclass(method, Regularizer)
        for knob in fields(method)
    }
    of_methods = {key for key in KEYS if key.count(".") == 2 and key.startswith("regularization.")}
    assert of_methods <= knobs
    others = {*loader, *of_lightning, *trackers, *of_methods, "hydra"}
    assert set(KEYS) == {*_declared(TrainConfig), *others}


@pytest.mark.parametrize("file", sorted((ROOT / "conf").glob("**/*.yaml")), ids=lambda f: f.stem)
def test_every_key_of_the_config_tree_has_a_row_or_is_in_a_part_that_has(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    group = file.parent.name
    if "hydra" in file.parts or group == "conf" or "@package _global_" in text:
        group = ""
    if "hydra" in file.parts:
        return  # Hydra's own settings, under one row
    prefix = f"{group}." if group else ""
    for key in yaml.safe_load(text) or ():
        assert key == "defaults" or meaning(f"{prefix}{key}").name, key


def test_a_key_of_a_part_is_like_its_part_and_one_of_nobody_is_hidden_nowhere() -> None:
    assert meaning("optimizer.betas.0") is KEYS["optimizer"]
    assert meaning("backward.layers.features.0") is KEYS["backward.layers"]
    assert meaning("data.folder") is KEYS["data"]
    unknown = meaning("mine.own")
    assert (unknown.identity, unknown.resume, unknown.report, unknown.hparam) == (
        *(True, False),
        *(True, False),
    )


GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Add a config key")[2]
FIELD = re.findall(r"^ *(\w+): int = (\d+)", GUIDE, re.M)
ROW = re.findall(r"^ *(Key\(.*\))$", GUIDE, re.M)


def _guides_row() -> Key:
    """The row that the guide adds."""
    (row,) = ROW
    return eval(row, {"Key": Key, "YES": True, "NO": False})


@pytest.mark.parametrize("opposite", [False, True])
def test_the_guides_one_row_settles_all_that_a_new_key_means(
    opposite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((name, default),) = FIELD
    data = dataclasses.make_dataclass("Data", [(name, int, int(default))], bases=(DataConfig,))
    schema = dataclasses.make_dataclass("Train", [("data", data)], bases=(TrainConfig,))
    assert _without_a_row(schema) == [f"data.{name}"]
    row = _guides_row()
    if opposite:
        flags = {
            flag: not getattr(row, flag) for flag in ("identity", "resume", "report", "hparam")
        }
        row = replace(row, **flags)
    monkeypatch.setattr(keys, "KEYS", {**KEYS, row.name: row})
    assert _without_a_row(schema) == []

    old, new = _with(data={name: int(default)}), _with(data={name: int(default) + 1})
    assert config_hash(old) == config_hash(CONFIG)
    assert (config_hash(new) != config_hash(old)) == row.identity
    assert (row.name in hyperparameters(new)) == row.hparam
    for folder, config in (("old", old), ("new", new)):
        (tmp_path / folder).mkdir()
        RunFolder(tmp_path / folder).write_config(config)
        RunFolder(tmp_path / folder).write_status("stopped", epoch=1, step=1)
    assert (row.name in settings_that_differ(gather([tmp_path]))) == row.report
    stopped = RunFolder(tmp_path / "old")
    if row.resume:
        check_resumable(stopped, new, "checksum")
        return
    with pytest.raises(ConfigError, match=rf"^{row.name} was {default} and cannot become"):
        check_resumable(stopped, new, "checksum")
