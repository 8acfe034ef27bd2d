"""Turn a checked config into the objects of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from cnnexp.config.accelerator import (
    accelerator_settings,
    check_batch,
    parallelism,
)
from cnnexp.config.backward import backward_settings
from cnnexp.config.callbacks import (
    check_callbacks,
    check_finetuning,
    check_loggers,
    check_passes,
    make_callbacks,
    make_loggers,
    named_callbacks,
)
from cnnexp.config.check import check_types
from cnnexp.config.compiled import check_compile
from cnnexp.config.data import data_module
from cnnexp.config.errors import ConfigError
from cnnexp.config.init_from import starting_weights
from cnnexp.config.loss import check_loss, loss_of
from cnnexp.config.metrics import check_metrics, check_monitor, metrics_of
from cnnexp.config.monitors import check_monitors, check_plateau
from cnnexp.config.optimizer import check_kind, make_optimizer
from cnnexp.config.privacy import check_account, check_private, check_private_network
from cnnexp.config.regularization import check_clipping, regularizers
from cnnexp.config.resumption import run_identity
from cnnexp.config.schema import AcceleratorConfig, TrainConfig
from cnnexp.config.targets import check_target, instance_of, make
from cnnexp.config.trainer import check_batches, trainer_arguments
from cnnexp.data import ImageSet
from cnnexp.models import lsuv
from cnnexp.nn import initialise_lazy
from cnnexp.optim import asks_again, freeze, steps_by_all_images
from cnnexp.training import (
    OnNaN,
    Parallelism,
    SchedulerFactory,
    StartingWeightsError,
    StepsPerCall,
    TrainingJob,
    mode_of,
    quiet_lightning,
)
from cnnexp.training.trainer_settings import lightning_settings
from cnnexp.tuning import pin_algorithms

__all__ = ["build_job", "check_job"]


# Arguments that a network gets from the data, if it takes them.
_FROM_DATA = ("in_channels", "num_classes", "image_size")


def build_job(
    config: Mapping[str, Any], extra_targets: Sequence[str] = (), *, elsewhere: bool = False
) -> TrainingJob:
    """The training that ``config`` (resolved, plain types) describes. Loads no data.

    Args:
        config: As composed from ``conf/train.yaml`` or read from a run's config.yaml.
        extra_targets: Prefixes of ``_target_`` allowed beyond cnnexp's own list.
        elsewhere: It is to run on other machines, whose devices are not known here.

    Raises:
        ConfigError: Something in it cannot work.
    """
    typed, extra = check_types(config), extra_targets
    backward = backward_settings(typed.backward)
    check_target("model", typed.model, _FROM_DATA, extra)
    regularizing = regularizers(typed.regularization, extra)
    optimizer = check_target("optimizer", typed.optimizer, ("params",), extra).func
    check_kind(typed, optimizer, regularizing)
    check_private(typed, optimizer, regularizing)
    check_clipping(regularizing, typed.trainer)
    check_compile(typed)
    device = accelerator_settings(typed.accelerator, elsewhere=elsewhere)
    parallel = parallelism(typed.accelerator, elsewhere=elsewhere)
    open_batch = _batch_size_is_open(typed, parallel)
    check_batch(typed.data.images_per_batch, None if open_batch else parallel)
    return TrainingJob(
        data=data_module(typed, extra),
        network=partial(_network, typed.model, typed.parameters.frozen, extra),
        optimizer=partial(make_optimizer, typed, regularizing, extra),
        scheduler=_schedule(typed, extra),
        loss=loss_of(typed, extra),
        metrics=metrics_of(typed.metrics, extra),
        start=starting_weights(**vars(typed.init_from)),
        full_batch=steps_by_all_images(optimizer),
        regularizers=regularizing,
        **backward,
        compile=cast(Any, typed.compile.name),
        compile_chosen=typed.compile.chosen,
        choose_precision=_precision_is_open(typed.accelerator),
        choose_batch_size=open_batch,
        trainer={**trainer_arguments(typed, extra), **device},
        parallel=parallel,
        callbacks=partial(make_callbacks, typed.callbacks, extra),
        loggers=partial(make_loggers, typed.logger, extra, typed.name),
        seed=typed.seed,
        monitor=typed.checkpoint.monitor,
        test=typed.test,
        checkpoint_steps=typed.checkpoint.every_n_steps,
        channels_last=typed.accelerator.channels_last,
        steps_per_call=cast(StepsPerCall, typed.accelerator.steps_per_call),
        on_nan=cast(OnNaN, typed.on_nan),
        privacy=typed.privacy,
        diagnostics=typed.diagnostics,
        debug=typed.debug.name,
        config=dict(config),
        identity=run_identity(config),
    )


def check_job(
    job: TrainingJob, extra_targets: Sequence[str] = (), *, resumed: bool = False
) -> None:
    """Build everything of ``job`` once, the data last, without a file, and drop it.

    Args:
        job: The training.
        extra_targets: Prefixes of ``_target_`` allowed beyond cnnexp's own list.
        resumed: Whether it has begun, so that nobody reads the weights that it started from.

    Raises:
        ConfigError: A part refuses its arguments, or they do not fit together.
        DataUnavailableError, DataFileError: The images cannot be had.
    """
    callbacks = named_callbacks(job)
    check_loggers(job.config.get("logger", {}), extra_targets)
    try:
        job.data.split()
    except Exception as error:  # without images there is no network to make the optimiser of
        alone = nn.Parameter(torch.zeros(2, 2))  # its own mistakes are said first
        make("optimizer", job.config["optimizer"], extra_targets, params=[alone])
        if isinstance(error, ValueError):
            raise ConfigError(str(error)) from error
        raise
    check_loss(job)
    check_metrics(job)
    check_monitor(job)
    if job.privacy.private:
        check_account(job)
    check_batches(job)
    check_callbacks(job, callbacks)
    check_monitors(job, callbacks)
    alone = replace(job, parallel=None)
    try:
        with quiet_lightning():
            Trainer(
                **lightning_settings(alone, Path()),
                callbacks=[*callbacks.values()],
                logger=False,
                enable_model_summary=False,
            )
    except (MisconfigurationException, ImportError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
    _check_network(job, callbacks, resumed=resumed)


def _check_network(job: TrainingJob, callbacks: Mapping[str, Callback], *, resumed: bool) -> None:
    """Send two images without memory through the network."""
    images = job.data.images
    expected = (2, len(images.classes))
    starting = job.start is not None and not resumed
    if starting:
        _give_start(job, None)
    with torch.device("meta"):
        network = job.network(images)
        if not any(p.requires_grad for p in network.parameters()):
            raise ConfigError("model: the network has no parameters to train")
        with _refused_images(images):
            logits = network(torch.empty(2, images.channels, *images.image_size))
        if job.privacy.private:
            check_private_network(network)
        if starting:
            _give_start(job, network)
        check_finetuning(network, callbacks)
        optimizer = job.optimizer(network)
        if asks_again(optimizer):
            check_passes(optimizer, callbacks)
        schedule = job.scheduler(optimizer, 1000) if job.scheduler is not None else None
        if isinstance(schedule, ReduceLROnPlateau):
            check_plateau(job)
        if job.backward_layers is not None:
            try:
                job.with_backward(network)
                pin_algorithms(network, job.backward_layers)
            except ValueError as error:
                raise ConfigError(
                    f"backward.layers: {error}; backward.layers=null chooses anew"
                ) from error
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != expected:
        raise ConfigError(
            f"model: for 2 images of {expected[1]} classes the network must give logits {expected}, "
            f"but gives {shape}"
        )


def _give_start(job: TrainingJob, network: nn.Module | None) -> None:
    """Read the weights that ``job`` starts from, or see whether they fit ``network``."""
    assert job.start is not None
    try:
        if network is None:  # outside of the context in which all new tensors are without memory
            job.start.read()
        else:
            job.start.give_to(network)
    except StartingWeightsError as error:
        raise ConfigError(str(error)) from error


def _precision_is_open(accelerator: AcceleratorConfig) -> bool:
    return accelerator.precision == "auto" and accelerator.chosen_precision is None


def _batch_size_is_open(typed: TrainConfig, parallel: Parallelism | None) -> bool:
    """Whether it is to be measured how many images a batch has."""
    if typed.data.batch_size != "auto":
        return False
    if parallel is not None:
        raise ConfigError(
            f"data.batch_size=auto: is measured by one process, and accelerator={typed.accelerator.name} has "
            f"{parallel.ranks}; give a number"
        )
    if typed.privacy.private:
        raise ConfigError(
            "data.batch_size=auto: ε follows from the batch size, which must not depend on the machine; give "
            "a number"
        )
    return typed.data.chosen_batch_size is None


def _network(
    config: Mapping[str, Any], frozen: Sequence[str], extra: Sequence[str], images: ImageSet
) -> nn.Module:
    network = make(
        "model",
        config,
        extra,
        in_channels=images.channels,
        num_classes=len(images.classes),
        image_size=images.image_size,
    )
    instance_of("model", network, nn.Module)
    with _refused_images(images):
        initialise_lazy(network, torch.zeros(()).expand(2, images.channels, *images.image_size))
    begins = len(images.train) and not next(network.parameters()).is_meta
    if config.get("init") == "lsuv" and begins:
        lsuv(network, _normalised(images, 256))
    # a network's own way, such as WhitenedCNN's
    if begins and hasattr(network, "init_from_images"):
        network.init_from_images(_normalised(images, 1000))  # pyright: ignore[reportCallIssue]
    try:
        freeze(network, frozen)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return network


@contextmanager
def _refused_images(images: ImageSet) -> Iterator[None]:
    """Within it an error of the network is one about ``images`` of this size."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError) as error:
        size = (images.channels, *images.image_size)
        reason = str(error).splitlines()[0]
        raise ConfigError(f"model: the network cannot take {size} images: {reason}") from error


def _normalised(images: ImageSet, count: int) -> torch.Tensor:
    """So many training images, as a network gets them."""
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (images.mean, images.std))
    last = len(images.train) - 1
    pixels, _ = images.train.batch(torch.linspace(0, last, min(count, last + 1)).long())
    return (pixels.float() / 255 - mean) / std


def _schedule(config: TrainConfig, extra: Sequence[str]) -> SchedulerFactory | None:
    """None for a constant learning rate."""
    if config.scheduler.get("_target_") is None:
        return None
    epochs, steps = config.trainer.get("max_epochs"), config.trainer.get("max_steps", -1)
    if (epochs == -1 and steps == -1) or 0 in (epochs, steps):
        raise ConfigError(
            f"trainer.max_epochs={epochs}, max_steps={steps}: a schedule needs a training of one step "
            f"or more that ends; use scheduler=none"
        )
    return partial(_scheduler, config.scheduler, mode_of(config.checkpoint.monitor), extra)


def _scheduler(
    config: Mapping[str, Any],
    mode: str,
    extra: Sequence[str],
    optimizer: Optimizer,
    total_steps: int,
) -> LRScheduler | ReduceLROnPlateau:
    made = make("scheduler", config, extra, optimizer=optimizer, total_steps=total_steps, mode=mode)
    return instance_of("scheduler", made, LRScheduler, ReduceLROnPlateau)
