"""Every callback, logger of Lightning's own has its effect, or is refused with one sentence."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch import callbacks, loggers
from torch import nn

from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.callbacks import check_finetuning, make_loggers
from cnnexp.config.lightning_options import CALLBACKS, LOGGERS, refusal
from cnnexp.runs import RunFolder
from cnnexp.training import read_checkpoint
from cnnexp.training.event_files import EventFiles
from tests.config.tiny_runs import BATCHES, STOCK, Run, checked, stock, tiny_run

called: list[str] = []


def note_start(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    """For a LambdaCallback."""
    called.append(type(pl_module).__name__)


def twice(batch: Any) -> int:
    """For a ThroughputMonitor: more images than there are."""
    return 2 * len(batch[1])


@pytest.fixture(autouse=True)
def _empty(empty_folder: Path) -> None:
    called.clear()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run without any callback."""
    return tiny_run(tmp_path_factory.mktemp("plain"))


def _zeros(file: Path) -> float:
    """The share of weights and biases that are 0."""
    state = read_checkpoint(file)["state_dict"]
    values = torch.cat([v.flatten() for k, v in state.items() if k.endswith(("weight", "bias"))])
    return float((values == 0).float().mean())


def _kept_average(run: Run, expected: Callable[[list[torch.Tensor]], torch.Tensor]) -> bool:
    """Whether last.ckpt holds the average of what the steps made of a kernel, and the test is of it."""
    name = "network.features.0.weight"
    kept = read_checkpoint(run.folder.last_checkpoint)["state_dict"][name]
    steps = [weights[name] for weights in run.seen.weights]
    return torch.allclose(kept, expected(steps), atol=1e-6) and not torch.allclose(kept, steps[-1])


def _exponential(steps: list[torch.Tensor]) -> torch.Tensor:
    average = steps[0]
    for weights in steps[1:]:
        average = 0.5 * average + 0.5 * weights
    return average


def _unfreezes(run: Run, plain: Run) -> bool:
    weights = [each["network.features.0.weight"] for each in run.seen.weights]
    frozen = all(torch.equal(each, weights[0]) for each in weights[:BATCHES])
    later = not torch.equal(weights[BATCHES - 1], weights[-1])
    return frozen and later and run.result["parameters"] == plain.result["parameters"]


def _best_file(run: Run, plain: Run) -> bool:
    best = min(run.values("val/loss"))
    folder = run.folder.checkpoints / "callbacks"
    files = {str(file.relative_to(folder)) for file in folder.rglob("*.ckpt")}
    state = read_checkpoint(folder / "last.ckpt")["state_dict"]
    return files == {f"e-val/loss={best:.3f}.ckpt", "last.ckpt"} and "mean" in state


# callback → its arguments, other overrides, and what it does
EFFECTS: dict[str, tuple[dict[str, str], list[str], Callable[[Run, Run], bool]]] = {
    "BackboneFinetuning": (
        {"unfreeze_backbone_at_epoch": "1", "train_bn": "false"},
        [],
        _unfreezes,
    ),
    "DeviceStatsMonitor": (
        {"cpu_stats": "true"},
        [],
        lambda run, plain: run.values("DeviceStatsMonitor.on_train_batch_start/cpu_percent") != [],
    ),
    "EarlyStopping": (
        {"monitor": "train/lr", "patience": "1"},
        ["trainer.max_epochs=4"],
        lambda run, plain: run.result["epochs"] == 2,
    ),
    "GradientAccumulationScheduler": (
        {"scheduling": "{0:2,1:4}"},
        [],
        lambda run, plain: run.result["steps"] == 3 and run.seen.train == plain.seen.train,
    ),
    "LambdaCallback": (
        {"on_train_start": "tests.config.test_callbacks.note_start"},
        [],
        lambda run, plain: called == ["Classifier"],
    ),
    "LearningRateMonitor": (
        {"logging_interval": "step"},
        [],
        lambda run, plain: (
            run.names() - plain.names() == {"lr-Adam/network", "lr-Adam/network (no decay)"}
        ),
    ),
    "ModelCheckpoint": (
        {"monitor": "val/loss", "filename": "'e-{val/loss:.3f}'", "save_last": "true"},
        [],
        _best_file,
    ),
    "ModelPruning": (
        {"pruning_fn": "l1_unstructured", "use_lottery_ticket_hypothesis": "false"},
        ["diagnostics=full", "diagnostics.every=1", "logger=tensorboard"],  # which look at weights
        lambda run, plain: (
            _zeros(run.folder.last_checkpoint) > 0.7 and _zeros(plain.folder.last_checkpoint) < 0.3
        ),
    ),
    "ModelSummary": ({"max_depth": "2"}, [], lambda run, plain: _said("Trainable params")),
    "RichModelSummary": ({}, [], lambda run, plain: _said("Trainable params")),
    "RichProgressBar": ({"theme": "{progress_bar:red}"}, [], lambda run, plain: _said("Epoch 1/1")),
    "SpikeDetection": ({"rtol": "1000"}, [], lambda run, plain: True),  # below
    "ThroughputMonitor": (
        {"window_size": "2"},
        ["trainer.max_epochs=3"],
        lambda run, plain: run.values("train/device/batches_per_sec") != [],
    ),
    "Timer": (
        {"duration": "{milliseconds:1}"},
        [],
        lambda run, plain: run.result["steps"] == 1 and _said("Time limit reached"),
    ),
    "TQDMProgressBar": ({}, [], lambda run, plain: _said("Epoch 1: 100%")),
    "EMAWeightAveraging": (
        {"decay": "0.5"},
        [],
        lambda run, plain: _kept_average(run, _exponential),
    ),
    "WeightAveraging": (
        {},
        [],
        lambda run, plain: _kept_average(run, lambda steps: torch.stack(steps).mean(0)),
    ),
}

said: list[str] = []


def _said(text: str) -> bool:
    return text in said[0]


def test_every_callback_and_logger_of_lightning_is_decided_upon() -> None:
    assert set(CALLBACKS) == set(callbacks.__all__)  # a new one of Lightning's: does it work here?
    assert set(EFFECTS) == {name for name, reason in CALLBACKS.items() if not reason}
    assert set(LOGGERS) == set(loggers.__all__)


@pytest.mark.parametrize("name", EFFECTS)
def test_a_callback_has_its_effect(
    name: str,
    tmp_path: Path,
    plain: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if name == "DeviceStatsMonitor":
        _pretend_psutil(monkeypatch)
    arguments, others, has_effect = EFFECTS[name]
    with caplog.at_level(logging.INFO, "cnnexp"):
        run = tiny_run(tmp_path, *stock(name, **arguments), *others)
    printed = capfd.readouterr()
    said[:] = [caplog.text + printed.out + printed.err]
    assert has_effect(run, plain)


def _pretend_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(percent=5.0)
    module = SimpleNamespace(
        virtual_memory=lambda: memory, cpu_percent=lambda: 7.0, swap_memory=lambda: memory
    )
    monkeypatch.setitem(sys.modules, "psutil", module)
    monkeypatch.setattr("lightning.pytorch.accelerators.cpu._PSUTIL_AVAILABLE", True)


def test_a_spike_ends_the_run_and_its_batches_are_noted(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Training spike detected in batch \d"):
        tiny_run(tmp_path, *stock("SpikeDetection", rtol="1e-9"), "optimizer.lr=1.0")
    excluded = json.loads((tmp_path / "run" / "skip_batches.json").read_text())
    assert excluded[1] == excluded[0] + 1
    assert RunFolder(tmp_path / "run").read_status()["state"] == "failed"


def test_a_function_is_named_with_its_module_and_needs_leave(tmp_path: Path) -> None:
    run = tiny_run(
        tmp_path,
        *stock("ThroughputMonitor", window_size="2", batch_size_fn="tests.config.test_callbacks.twice"),
    )  # fmt: skip
    images = run.values("train/device/samples_per_sec")
    batches = run.values("train/device/batches_per_sec")
    shares = [i / b for i, b in zip(images, batches, strict=True)]
    assert shares == pytest.approx([32.0] * len(shares))
    assert shares
    with pytest.raises(ConfigError, match=r"x\.on_fit_start\._target_=os\.getcwd is not allowed"):
        checked(*stock("LambdaCallback", on_fit_start="os.getcwd"))


@pytest.mark.parametrize("name", [name for name, reason in CALLBACKS.items() if reason])
def test_a_callback_that_does_not_work_names_what_does(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked(*stock(name))
    assert str(refused.value) == f"callbacks.x._target_={STOCK}{name}: {name} {CALLBACKS[name]}"


def _two(first: str, second: str, **arguments: str) -> list[str]:
    return [
        f"+callbacks.a._target_={STOCK}{first}",
        f"+callbacks.b._target_={STOCK}{second}",
        *(f"+callbacks.{key.replace('__', '.')}={value}" for key, value in arguments.items()),
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (stock("DeviceStatsMonitor"), "callbacks.x: DeviceStatsMonitor needs pip install psutil"),
        (
            [*stock("Timer", duration="'00:00:01:00'"), "+trainer.max_time={minutes:1}"],
            "trainer.max_time: callbacks.x is a Timer already; leave one of them out",
        ),
        (stock("Timer", duration="soon"), "callbacks.x.duration=soon: must be a span of time, as"),
        (
            stock("ModelCheckpoint", train_time_interval="{second:1}"),
            "callbacks.x.train_time_interval={'second': 1}: must be a span of time",
        ),
        (
            [*stock("GradientAccumulationScheduler", scheduling="{1:2}"), "scheduler=onecycle"],
            "changes how many steps an epoch has, over which a schedule is laid; use scheduler=none",
        ),
        (
            [
                *stock("GradientAccumulationScheduler", scheduling="{1:2}"),
                "+trainer.accumulate_grad_batches=2",
            ],
            "both say how many batches a step is by; leave one of them out",
        ),
        (
            [*stock("GradientAccumulationScheduler", scheduling="{1:2}"), "optimizer=sam"],
            "callbacks.x: SAM computes the gradient more than once a step, of one batch; raise data",
        ),
        (
            [*stock("GradientAccumulationScheduler", scheduling="{1:2}"), "optimizer=gd"],
            "callbacks.x: full-batch gradient descent takes all batches of an epoch for one step",
        ),
        (
            stock("GradientAccumulationScheduler", scheduling="{one:2}"),
            "refuses its arguments: Epoch should be an int",
        ),
        (
            stock("ModelPruning", pruning_fn="l1_unstructured", amount="1.5"),
            "callbacks.x.amount=1.5: must be a share between 0.0 and 1.0",
        ),
        (
            stock("ModelPruning", pruning_fn="l1_unstructured", make_pruning_permanent="false"),
            "callbacks.x.make_pruning_permanent=false: leaves checkpoints in two forms",
        ),
        (
            stock("ModelPruning", pruning_fn="magic"),
            "The provided `pruning_fn` magic isn't available",
        ),
        (
            [*stock("ModelPruning", pruning_fn="l1_unstructured"), "regularization=ema"],
            "an average of weights does not know which of them are pruned; leave one of them out",
        ),
        (
            [*stock("EMAWeightAveraging"), "regularization=swa"],
            "regularization (StochasticWeightAverage), callbacks.x: both replace the weights by an",
        ),
        (
            _two("TQDMProgressBar", "RichProgressBar"),
            "callbacks.b: callbacks.a is a progress bar already; leave one of them out",
        ),
        (
            _two("EarlyStopping", "EarlyStopping", a__monitor="val/loss", b__monitor="val/loss"),
            "callbacks.b: callbacks.a is of the same class, EarlyStopping, with the same settings, and",
        ),
        (
            [
                *stock("EarlyStopping", monitor="val/acc", mode="max"),
                "regularization=early_stopping",
            ],
            "callbacks.x: regularization (EarlyStopping) is of the same class, EarlyStopping, with",
        ),
        (
            stock("ModelSummary", depth="2"),
            "callbacks.x.depth: lightning.pytorch.callbacks.ModelSum",
        ),
        (stock("ThroughputMonitor", windw_size="2"), "Did you mean 'window_size'?"),
        (stock("EMAWeightAveraging", decy="2"), "takes no argument 'decy'. Did you mean 'decay'?"),
        (
            stock("RichProgressBar", theme="{bar:red}"),
            "callbacks.x.theme.bar: there is no such setting; known: description, progress_bar",
        ),
        (
            ["+callbacks.x._target_=cnnexp.training.callbacks.Throughput"],
            "callbacks.x._target_=cnnexp.training.callbacks.Throughput: Throughput is part of every",
        ),
    ],
)
def test_what_cannot_go_together_is_refused(overrides: list[str], message: str) -> None:
    package = message.partition("needs pip install ")[2]
    if package and importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(ConfigError) as refused:
        checked(*overrides)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_network_of_one_part_has_no_backbone() -> None:
    named = {"callbacks.x": callbacks.BackboneFinetuning()}
    check_finetuning(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), named)
    with pytest.raises(
        ConfigError, match=r"callbacks\.x: .* Sequential has 1 with parameters; use "
    ):
        check_finetuning(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), named)


class Writer(callbacks.BasePredictionWriter):
    """Somebody's own of a kind that does not work."""


class Finder(callbacks.BatchSizeFinder):
    """The same."""


class Bar(callbacks.TQDMProgressBar):
    """Somebody's own of a kind that does."""


def test_somebodys_own_are_judged_by_what_they_extend() -> None:
    assert refusal(Writer, CALLBACKS).startswith("BasePredictionWriter has nothing to write")
    assert refusal(Finder, CALLBACKS).startswith("BatchSizeFinder would change the batch size")
    assert refusal(Bar, CALLBACKS) == ""
    assert refusal(type("Own", (callbacks.Callback,), {}), CALLBACKS) == ""
    assert refusal(type("Own", (callbacks.BaseFinetuning,), {}), CALLBACKS) == ""


@pytest.mark.parametrize("name", LOGGERS)
def test_a_logger_works_or_says_what_it_needs(name: str, tmp_path: Path) -> None:
    overrides = [f"+logger.x._target_=lightning.pytorch.loggers.{name}"]
    if name in ("CSVLogger", "TensorBoardLogger"):
        run = tiny_run(tmp_path, "trainer.max_epochs=1", "test=false", *overrides)
        written = [f.name for f in (run.folder.path / "lightning_logs").rglob("*") if f.is_file()]
        assert any(file.startswith(("metrics.csv", "events.out")) for file in written)
        return
    message = (
        "Logger is a base class" if name == "Logger" else f"logger.x: {name} needs pip install"
    )
    with pytest.raises(ConfigError, match=message):
        checked(*overrides)


class Board(loggers.TensorBoardLogger):
    """Somebody's own."""


def test_lightnings_logger_for_tensorboard_takes_less_of_a_step(tmp_path: Path) -> None:
    """The config names Lightning's: a job has the hash that it always had. A class of one's own stays."""
    (tmp_path / "run").mkdir()
    targets = {
        "plain": "lightning.pytorch.loggers.TensorBoardLogger",
        "long": "lightning.pytorch.loggers.tensorboard.TensorBoardLogger",
        "own": f"{__name__}.Board",
    }
    config = {name: {"_target_": target, "name": name} for name, target in targets.items()}
    made = make_loggers(config, (f"{__name__}.",), "called", RunFolder(tmp_path / "run"))
    assert [type(each) for each in made] == [EventFiles, EventFiles, Board]
    assert [each.name for each in made] == [*targets]
    default = plain_config(Composer("train").compose([]))["logger"]
    assert default["tensorboard"]["_target_"] == targets["plain"]
