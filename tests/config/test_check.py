"""Types, ranges, targets and combinations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.accelerator import check_nodes
from cnnexp.config.build import build_job, check_job
from cnnexp.config.resolvers import register_resolvers
from cnnexp.config.targets import allowed_prefixes, check_target, locate, make


@pytest.fixture(autouse=True)
def _no_mnist(empty_folder: Path) -> None:
    register_resolvers()


def _check(*overrides: str, extra: tuple[str, ...] = ()) -> None:
    config = plain_config(Composer("train").compose(["data=digits", *overrides]))
    check_job(build_job(config, extra), extra)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batch_size=0", r"data\.batch_size=0: must be at least 1"),
        (
            "data.val_size=-1",
            r"data\.val_size=-1: must be a whole number of images, at least 0, or a share",
        ),
        ("data.val_size=1.5", r"data\.val_size=1\.5: must be a whole number .* between 0 and 1"),
        ("data.train_size=0", r"data\.train_size=0: must be a whole number of images, at least 1"),
        ("data.val_size=many", r"data\.val_size=many: Value 'many' of type 'str'"),
        (
            "data.classes=[3,4,x]",
            r"classes=\[3, 4, x\]: must be two or more of digits's, .*0, 1, 2",
        ),
        ("data.classes=[3]", r"classes=\[3\]: must be two or more"),
        ("data.num_workers=-1", r"data\.num_workers=-1: must be at least 0"),
        ("data._target_=os.listdir", r"data\._target_=os\.listdir is not allowed"),
        ("data._target_=cnnexp.data.seeded_generator", r"must make a ImageSet, but makes"),
        (
            "model.blocks=5",
            r"are too small for 5 blocks .*; use fewer blocks or a smaller pool_size",
        ),
        ("model.blocks=0", r"blocks must be at least 1, or None, but got 0"),
        ("data.val_size=2000", r"digits has 1437 training images: too few for data\.val_size=2000"),
        ("+data.colour=red", r"data\.colour: cnnexp\.data\.load_digits takes no argument 'colour'"),
        ("+data.batchsize=3", r"Did you mean 'batch_size'\?"),
        ("+optimiser.lr=3", r"optimiser: there is no key .* Did you mean 'optimizer'\?"),
        ("seed=-1", r"seed=-1: must be between 0 and 4294967295"),
        ("name=a/b", r"name='a/b': must be a plain folder name"),
        (
            "backward.name=magic",
            r"backward\.name=magic: unknown algorithm 'magic'.*known: depthwise, direct",
        ),
        (
            "backward=direct +backward.recompute=true",
            r"backward\.recompute goes with backward\.name=auto or fused, not direct",
        ),
        (
            "backward=im2col +backward.functions=true",
            r"backward\.functions goes with backward\.name=auto or fused, not im2col; set backward\.f",
        ),
        ("+regularization.l2.strength=-1", r"regularization\.l2\.strength must be at least 0"),
        (
            "regularization=[l1,clip_norm] regularization.clip.norm=0",
            r"clip\.norm must be above 0, but got 0\.0",
        ),
        (
            "regularization=clip_norm +regularization.clip.value=1",
            r"clip: needs one of norm, value, adaptive",
        ),
        ("regularization=[ema,swa]", r"regularization: ema and swa both replace the weights"),
        ("regularization=swa regularization.swa.start=1", r"regularization\.swa\.start must be in"),
        ("regularization=random_shift regularization.random_shift.pixels=0", r"pixels must be at"),
        ("regularization=clip_value +trainer.gradient_clip_val=1", r"clips the gradients already"),
        ("regularization=[l3]", r"regularization=l3: unknown choice; known: .*l1, l2"),
        (
            "optimizer=gd +trainer.accumulate_grad_batches=2",
            r"takes all batches of an epoch for one",
        ),
        (
            "optimizer=sam +trainer.accumulate_grad_batches=2",
            r"SAM computes the gradient more than",
        ),
        (
            "optimizer=lbfgs accelerator.precision=16-mixed",
            r"LBFGS computes the gradient more than",
        ),
        ("on_nan=ignore", r"on_nan=ignore: must be one of stop, skip, lower_lr"),
        ("optimizer=sam on_nan=skip", r"on_nan=skip: SAM computes the gradient more than once"),
        ("optimizer=lbfgs +parameters.lr_scale.classifier=0.1", r"has one learning rate for all"),
        (
            "+parameters.lr_scale.clasifier=0.1",
            r"parameters\.lr_scale: no parameter is named 'cla",
        ),
        ("parameters.frozen=[features.99]", r"parameters\.frozen: .*'features\.99'.*; known: feat"),
        ("parameters.frozen=[features,classifier]", r"the network has no parameters to train"),
        ("scheduler=wsd scheduler.decay=2", r"scheduler: .*scheduler\.decay=2: must be between"),
        ("accelerator.name=tpu", r"accelerator\.name=tpu: must be one of auto, cpu, gpu"),
        (
            "accelerator=cpu accelerator.devices=2",
            r"accelerator=cpu, devices=2: one process trains",
        ),
        ("accelerator.devices=two", r"accelerator\.devices=two: must be a whole number, or auto"),
        ("accelerator.devices=0", r"accelerator\.devices=0: must be at least 1"),
        (
            "accelerator=ddp_cpu accelerator.devices=3",
            r"cannot be cut into 3 equal parts.*; take 129",
        ),
        (
            "accelerator=ddp_cpu +accelerator.sync_batch_norm=true",
            r"synchronises statistics on GPUs",
        ),
        (
            "accelerator=ddp_cpu accelerator.gradient_compression=zip",
            r"accelerator\.gradient_compression=zip: must be one of none, bf16, fp16",
        ),
        (
            "+trainer.strategy=ddp",
            r"trainer\.strategy: choose it with accelerator=ddp\|ddp_cpu\|fsdp",
        ),
        ("accelerator.precision=8", r"accelerator\.precision=8: must be one of 32-true"),
        (
            "accelerator.chosen_precision=bf16-mixed",
            r"chosen_precision goes with accelerator\.precision=auto, not 32-true",
        ),
        (
            "accelerator.precision=auto accelerator.chosen_precision=16-mixed",
            r"accelerator\.chosen_precision=16-mixed: must be one of 32-true, bf16-mixed",
        ),
        (
            "accelerator=fsdp accelerator.precision=auto",
            r"accelerator\.precision=auto: is not measured for weights in parts",
        ),
        ("checkpoint.monitor=test/acc", r"checkpoint\.monitor=test/acc: must be one of val/acc"),
        ("optimizer.lr=fast", r"optimizer\.lr=fast: must be a number, but is text"),
        ("optimizer.lr=-1", r"optimizer: torch\.optim\.Adam refuses .*Invalid learning rate: -1"),
        ("optimizer.betas=0.9", r"optimizer\.betas=0\.9: must be a list, but is a number"),
        ("+optimizer.learning_rate=1", r"torch\.optim\.Adam takes no argument 'learning_rate'"),
        (
            "optimizer._target_=torch.optim.Adem",
            r"torch\.optim has no 'Adem'\. Did you mean 'Adam'\?",
        ),
        ("optimizer._target_=3", r"must be the dotted name of a class, but got 3"),
        (
            "model._target_=os.system",
            r"model\._target_=os\.system is not allowed .*allow_targets=\[os\.\]",
        ),
        ("model._target_=torch.optim.Adam", r"is not allowed"),
        ("scheduler._target_=cnnexp.optim.schedules.CosineAnnealingLR", r"T_max is missing"),
        ("model.channels=[1,2,3,4,5,6]", r"model: .*images of 28×28 are too small for 6 blocks"),
        ("model.channels=[]", r"channels must be one or more positive numbers"),
        (
            "model._target_=torch.nn.Flatten",
            r"model\.channels: torch\.nn\.Flatten takes no argument",
        ),
        ("+model.num_classes=5", r"the network must give logits \(2, 10\), but gives \(2, 5\)"),
        ("+model.in_channels=3", r"the network cannot take \(1, 28, 28\) images"),
        (
            "regularization=l2 regularization.l2.strength=nan",
            r"regularization\.l2\.strength=nan: must be finite",
        ),
        ("optimizer.lr=inf", r"optimizer\.lr=inf: must be finite"),
        ("optimizer.betas=[0.9]", r"optimizer: torch\.optim\.Adam refuses its arguments"),
        ("optimizer=null", r"optimizer=null: must be the name of a choice; known: adadelta, "),
        ("optimizer=5", r"optimizer=5: must be the name of a choice; known: adadelta, "),
        ("logger.tensorboard=null", r"logger\.tensorboard=None: must be a class"),
        ("+callbacks.x=5", r"callbacks\.x=5: must be a class"),
        (
            "+trainer.limit_test_batches=0",
            r"limit_test_batches=0: to leave the test out, set test=false",
        ),
        (
            "trainer._target_=torch.optim.Adam",
            r"trainer\._target_=torch\.optim\.Adam is not allowed",
        ),
        (
            "scheduler=onecycle trainer.max_epochs=0",
            r"a schedule needs a training of one step or more",
        ),
        (
            "scheduler=cosine trainer.max_epochs=-1 +trainer.max_steps=-1",
            r"needs a training of one",
        ),
        ("trainer.max_epochs=-3", r"trainer: .*max_epochs.* must be a non-negative integer or -1"),
        ("+trainer.logger=false", r"trainer\.logger: choose it with logger="),
        ("+trainer.max_epoch=3", r"takes no argument 'max_epoch'\. Did you mean 'max_epochs'\?"),
        (
            "+callbacks.x._target_=lightning.pytorch.callbacks.EarlyStopping",
            r"callbacks\.x\.monitor is missing",
        ),
        ("+logger.x._target_=lightning.pytorch.loggers.CSVLogger", ""),
    ],
)
def test_a_config_that_cannot_work_gets_one_sentence(override: str, message: str) -> None:
    if not message:
        _check(*override.split())  # save_dir is the run folder: cnnexp adds it
        return
    with pytest.raises(ConfigError, match=message) as caught:
        _check(*override.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("choice", ["gpu", "ddp", "fsdp"])
def test_gpu_where_there_is_none(choice: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=rf"accelerator={choice}: this machine has 0 usable"):
        _check(f"accelerator={choice}")


@pytest.mark.parametrize("other", ["regularization=ema", "regularization=l2", "optimizer=muon"])
def test_what_needs_whole_weights_has_none_where_they_are_shared_out(
    other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"accelerator=fsdp: .* needs each weight whole"):
        build_job(plain_config(Composer("train").compose(["accelerator=fsdp", other])))


def test_several_machines_are_started_by_somebody_else() -> None:
    config = plain_config(
        Composer("train").compose(["accelerator=ddp_cpu", "accelerator.num_nodes=2"])
    )
    with pytest.raises(ConfigError, match=r"num_nodes=2: start one process a device on each mach"):
        check_nodes(build_job(config).parallel)


def test_devices_of_other_machines_are_not_looked_for_here() -> None:
    config = plain_config(
        Composer("train").compose(["accelerator=ddp", "accelerator.devices=4", "data=digits"])
    )
    job = build_job(config, elsewhere=True)
    assert job.parallel is not None
    assert job.parallel.ranks == 4
    check_job(job)


def test_processes_that_were_started_are_as_many_as_the_config_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"RANK": 0, "WORLD_SIZE": 4, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    config = Composer("train").compose(["accelerator=ddp_cpu", "accelerator.devices=auto"])
    parallel = build_job(plain_config(config)).parallel
    assert parallel is not None
    assert (parallel.devices, parallel.nodes, parallel.ranks) == (2, 2, 4)
    with pytest.raises(ConfigError, match=r"num_nodes=1: 4 processes were started, 2 on this mach"):
        build_job(plain_config(Composer("train").compose(["accelerator=ddp_cpu"])))


def test_combinations_that_work() -> None:
    _check("+scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau", "scheduler=none")
    _check("regularization=[l1,l2,mixup,random_erasing,ema]", "optimizer=muon", "scheduler=wsd")
    _check("parameters.frozen=[features.0]", "+parameters.lr_scale.classifier=0.1")
    _check("optimizer=sgd", "scheduler=onecycle", "regularization=l2", "model=lenet5")
    _check(
        "+trainer.gradient_clip_val=1.0", "+callbacks.t._target_=lightning.pytorch.callbacks.Timer"
    )
    _check("optimizer.lr=1", "model.kernel_size=[5,3,3,3]", "data.val_size=0")


def test_a_schedule_without_an_end() -> None:
    with pytest.raises(ConfigError, match=r"max_epochs=-1, max_steps=-1: a schedule needs"):
        _check("scheduler=cosine", "trainer.max_epochs=-1")
    _check("scheduler=cosine", "trainer.max_epochs=-1", "+trainer.max_steps=9")


def test_the_cheap_checks_come_before_the_data() -> None:
    overrides = ["data.root=nowhere", "data.download=false", "data.fallback=error"]
    config = plain_config(Composer("train").compose([*overrides, "optimizer.lr=-1"]))
    with pytest.raises(ConfigError, match="Invalid learning rate"):
        check_job(build_job(config))


def test_targets_are_allowed_by_the_command_line_and_the_environment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert allowed_prefixes(["seed=1", "allow_targets=[mylab.,other.]"]) == ("mylab.", "other.")
    monkeypatch.setenv("CNNEXP_ALLOW_TARGETS", "lab.nets.")
    assert allowed_prefixes() == ("lab.nets.",)
    with pytest.raises(ConfigError, match="is not allowed"):
        _check("model._target_=fractions.Fraction")
    with pytest.raises(
        ConfigError, match=r"model\.channels: fractions\.Fraction takes no argument"
    ):
        _check("model._target_=fractions.Fraction", extra=("fractions.",))


@pytest.mark.parametrize(
    "target",
    [
        "torch.nn.os.system",
        "torch.nn.modules.sys.exit",
        "torch.nn.functional.importlib.import_module",
    ],
)
def test_other_modules_cannot_be_reached_through_an_allowed_one(target: str) -> None:
    with pytest.raises(ConfigError):
        locate("model", target)


def test_what_a_module_merely_imports_is_not_its_own() -> None:
    # torch.nn.functional.Callable is typing's
    with pytest.raises(ConfigError, match="is not allowed: it is"):
        locate("model", "torch.nn.functional.Callable")


def test_make_adds_what_the_target_takes_and_leaves_the_rest() -> None:
    node: dict[str, Any] = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 3}
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    made = make("scheduler", node, optimizer=optimizer, total_steps=10)
    assert made.step_size == 3
    with pytest.raises(ConfigError, match=r"scheduler\.step_size is missing"):
        check_target("scheduler", {"_target_": node["_target_"]}, ("optimizer",))
