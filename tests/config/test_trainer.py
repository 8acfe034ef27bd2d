"""Every argument of Lightning's Trainer has its effect, or is refused with one sentence."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch import profilers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnnexp.config import ConfigError
from cnnexp.config.lightning_options import PROFILERS, TRAINER
from tests.config.tiny_runs import BATCHES, Run, checked, stock, tiny_run

# what would stop after two epochs: a metric that never becomes better
STOPS = [*stock("EarlyStopping", monitor="train/lr", patience="1"), "trainer.max_epochs=4"]


@pytest.fixture(autouse=True)
def _as_before(empty_folder: Path) -> Iterator[None]:
    """What some arguments set for the whole process ends with the test."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run without any option."""
    return tiny_run(tmp_path_factory.mktemp("plain"))


def _repeats(run: Run) -> bool:
    first, second = run.seen.train
    return first == second


def _norms(run: Run) -> list[float]:
    return [float(gradient.norm()) for gradient in run.seen.gradients]


def _greatest(run: Run) -> float:
    return max(float(gradient.abs().max()) for gradient in run.seen.gradients)


# argument → what is given, and what it does: to see in the run, beside the plain one
EFFECTS: dict[str, tuple[list[str], Callable[[Run, Run], bool]]] = {
    "fast_dev_run": (
        ["+trainer.fast_dev_run=true"],
        lambda run, plain: run.result["steps"] == 1 and not run.folder.checkpoints.exists(),
    ),
    "max_epochs": (
        ["trainer.max_epochs=1"],
        lambda run, plain: run.result["epochs"] == 1 and plain.result["epochs"] == 2,
    ),
    "min_epochs": (
        [*STOPS, "+trainer.min_epochs=3"],
        lambda run, plain: run.result["epochs"] == 3,
    ),
    "max_steps": (
        ["trainer.max_epochs=-1", "+trainer.max_steps=3"],
        lambda run, plain: run.result["steps"] == 3,
    ),
    "min_steps": (
        [*STOPS, "+trainer.min_steps=10"],
        lambda run, plain: 10 <= run.result["steps"] <= 12,
    ),
    "max_time": (
        ["+trainer.max_time={milliseconds: 1}"],
        lambda run, plain: (
            run.result["steps"] == 1
            and run.result["train/loss"] == pytest.approx(run.values("train/loss_step")[0])
            and len(run.values("val/loss")) == 1
        ),
    ),
    "limit_train_batches": (
        ["+trainer.limit_train_batches=2"],
        lambda run, plain: run.seen.train == [*plain.seen.train[:2], *plain.seen.train[4:6]],
    ),
    "limit_val_batches": (
        ["+trainer.limit_val_batches=1"],
        lambda run, plain: (run.seen.validation, plain.seen.validation) == (2, 4),
    ),
    "limit_test_batches": (
        ["+trainer.limit_test_batches=0.5"],
        lambda run, plain: (len(run.seen.test), len(plain.seen.test)) == (1, 2),
    ),
    "overfit_batches": (
        ["+trainer.overfit_batches=1"],
        lambda run, plain: (
            _repeats(run)
            and plain.seen.train[0] == run.seen.train[0] != plain.seen.train[BATCHES]
            and run.seen.validation == 2
        ),
    ),
    "val_check_interval": (
        ["+trainer.val_check_interval=2"],
        lambda run, plain: (len(run.values("val/loss")), len(plain.values("val/loss"))) == (4, 2),
    ),
    "check_val_every_n_epoch": (
        ["+trainer.check_val_every_n_epoch=2"],
        lambda run, plain: run.values("val/loss") == plain.values("val/loss")[1:],
    ),
    "num_sanity_val_steps": (
        ["+trainer.num_sanity_val_steps=0"],
        lambda run, plain: (run.seen.sanity, plain.seen.sanity) == (0, 2),
    ),
    "log_every_n_steps": (
        ["trainer.log_every_n_steps=4"],
        lambda run, plain: (
            run.values("train/loss_step") == plain.values("train/loss_step")[3::4]
        ),
    ),
    "accumulate_grad_batches": (
        ["+trainer.accumulate_grad_batches=2"],
        lambda run, plain: (
            run.result["steps"] == BATCHES and run.seen.train == plain.seen.train
        ),
    ),
    "gradient_clip_val": (
        ["+trainer.gradient_clip_val=0.001"],
        lambda run, plain: max(_norms(run)) < 0.00101 < min(_norms(plain)),
    ),
    "gradient_clip_algorithm": (
        ["+trainer.gradient_clip_val=0.001", "+trainer.gradient_clip_algorithm=value"],
        lambda run, plain: _greatest(run) < 0.00101 < min(_norms(run)),
    ),
    "deterministic": (
        ["+trainer.deterministic=warn"],
        lambda run, plain: run.seen.flags["warn_only"] and not plain.seen.flags["deterministic"],
    ),
    "benchmark": (
        ["+trainer.benchmark=true"],
        lambda run, plain: run.seen.flags["benchmark"] and not plain.seen.flags["benchmark"],
    ),
    "inference_mode": (
        ["+trainer.inference_mode=false"],
        lambda run, plain: not any(run.seen.test) and all(plain.seen.test),
    ),
    "profiler": (
        ["+trainer.profiler=simple"],
        lambda run, plain: (
            "optimizer_step" in (run.folder.profile / "fit-simple.txt").read_text()
            and "test_step" in (run.folder.profile / "test-simple.txt").read_text()
            and not plain.folder.profile.exists()
        ),
    ),
    "detect_anomaly": (
        ["+trainer.detect_anomaly=true"],
        lambda run, plain: run.seen.flags["anomaly"] and not plain.seen.flags["anomaly"],
    ),
    "reload_dataloaders_every_n_epochs": (
        ["+trainer.reload_dataloaders_every_n_epochs=1"],
        lambda run, plain: (
            len(set(run.seen.loaders)) == 2
            and len(set(plain.seen.loaders)) == 1
            and run.seen.train == plain.seen.train
        ),
    ),
    "enable_autolog_hparams": (
        ["+trainer.enable_autolog_hparams=false", "logger=tensorboard"],
        lambda run, plain: not any(tag.startswith("hp/") for tag in _tags(run)) and bool(_tags(run)),
    ),
}  # fmt: skip


def _tags(run: Run) -> list[str]:
    return EventAccumulator(str(run.folder.tensorboard)).Reload().Tags()["scalars"]


def test_every_argument_of_lightning_is_decided_upon() -> None:
    arguments = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    assert set(TRAINER) == arguments  # a new one of Lightning's: does it work here?
    assert set(EFFECTS) == {name for name, reason in TRAINER.items() if not reason}
    assert set(PROFILERS) == set(profilers.__all__)


@pytest.mark.parametrize("argument", EFFECTS)
def test_an_argument_has_its_effect(argument: str, tmp_path: Path, plain: Run) -> None:
    overrides, has_effect = EFFECTS[argument]
    assert has_effect(tiny_run(tmp_path, *overrides), plain)


@pytest.mark.parametrize("argument", [name for name, reason in TRAINER.items() if reason])
def test_an_argument_that_does_not_work_names_what_does(argument: str) -> None:
    annotation = str(inspect.signature(L.Trainer.__init__).parameters[argument].annotation)
    value = "true" if "bool" in annotation else "1" if "int" in annotation else "x"
    with pytest.raises(ConfigError) as refused:
        checked(f"+trainer.{argument}={value}")
    assert str(refused.value) == f"trainer.{argument}: {TRAINER[argument]}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("+trainer.limit_train_batches=0", "limit_train_batches=0: to train nothing, set trainer.m"),
        ("+trainer.limit_train_batches=0.1", "limit_train_batches=0.1: is less than one of 4 batches"),
        ("+trainer.limit_val_batches=0.1", "limit_val_batches=0.1: is less than one of 2 batches"),
        ("+trainer.limit_val_batches=1.5", "limit_val_batches=1.5: must be a whole number of batches"),
        ("+trainer.overfit_batches=0.1", "overfit_batches=0.1: is less than one of 4 batches; give"),
        ("+trainer.overfit_batches=-1", "overfit_batches=-1: must be at least 0"),
        ("+trainer.overfit_batches=1 optimizer=gd", "takes all batches of an epoch for one step"),
        ("+trainer.val_check_interval=5", "val_check_interval=5: an epoch has 4 batches only; lower"),
        ("+trainer.val_check_interval=0", "val_check_interval=0: to validate never, set data.val_siz"),
        ("+trainer.val_check_interval={sec: 1}", "must be a span of time, as {minutes: 5} or '00:00:"),
        ("+trainer.val_check_interval=2.5", "invalid value 2.5 for val_check_interval"),
        ("+trainer.check_val_every_n_epoch=0", "check_val_every_n_epoch=0: must be at least 1"),
        ("+trainer.accumulate_grad_batches=0", "accumulate_grad_batches=0: must be at least 1"),
        ("+trainer.gradient_clip_val=-1", "gradient_clip_val=-1: must be at least 0"),
        ("+trainer.gradient_clip_algorithm=norm", "clips nothing without trainer.gradient_clip_val"),
        ("+trainer.gradient_clip_val=1 +trainer.gradient_clip_algorithm=x", "gradient_clip_algorithm"),
        ("+trainer.max_time=soon", "trainer.max_time=soon: must be a span of time, as {minutes: 5}"),
        ("+trainer.max_time={weeks: x}", "trainer.max_time={'weeks': 'x'}: must be a span of time"),
        ("+trainer.max_time=5", "trainer.max_time=5: must be text or a mapping or null, but is a who"),
        ("+trainer.deterministic=maybe", "trainer.deterministic=maybe: must be true or false or one"),
        ("+trainer.profiler=smple", "profiler=smple: must be one of simple, advanced, pytorch, or a c"),
        ("+trainer.profiler=smple", "Did you mean 'simple'?"),
        ("+trainer.profiler=xla", "trainer.profiler=xla: XLAProfiler needs a TPU, on which cnnexp"),
        ("+trainer.profiler._target_=lightning.pytorch.profilers.Profiler", "is a base class, which"),
        ("+trainer.profiler._target_=lightning.pytorch.profilers.XLAProfiler", "needs a TPU"),
        ("+trainer.profiler._target_=os.system", "trainer.profiler._target_=os.system is not allowed"),
        ("+trainer.fast_dev_run=-1", "fast_dev_run=-1 is not a valid configuration"),
        ("scheduler=plateau +trainer.limit_val_batches=0", "looks at val/acc of each validation, but"),
        (
            "scheduler=plateau +trainer.check_val_every_n_epoch=null +trainer.val_check_interval=3",
            "may have no validation with trainer.val_check_interval=3; count validations by epochs",
        ),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused(overrides: str, message: str) -> None:
    # a mapping holds a space: overrides begin with + or a group
    parts = [part.replace(": ", ":") for part in overrides.replace(": ", ":").split(" ")]
    with pytest.raises(ConfigError) as refused:
        checked(*parts)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("profiler", "report"),
    [
        ("advanced", "fit-advanced.txt"),
        ("pytorch", "fit-pytorch.txt"),
        (
            "{_target_:lightning.pytorch.profilers.SimpleProfiler,extended:false}",
            "fit-profile.txt",
        ),
    ],
)
def test_profilers_write_into_the_run_folder(profiler: str, report: str, tmp_path: Path) -> None:
    short = ["trainer.max_epochs=1", "+trainer.limit_train_batches=1", "test=false"]
    run = tiny_run(tmp_path, *short, f"+trainer.profiler={profiler}")
    text = (run.folder.profile / report).read_text()
    assert "Profiler Report" in text
    assert "Percentage" not in text or profiler == "pytorch"  # which only the extended one has
    if profiler == "pytorch":
        trace = next(run.folder.profile.glob("*.pt.trace.json"))
        assert json.loads(trace.read_text())["traceEvents"]


def test_plateau_looks_once_in_so_many_epochs_as_there_is_a_validation(tmp_path: Path) -> None:
    run = tiny_run(
        tmp_path, "scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=1.0",
        "+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=5",
    )  # fmt: skip
    rates = run.values("train/lr")[::BATCHES]
    assert rates[0] == rates[1] == rates[2] == rates[3] > rates[4]
