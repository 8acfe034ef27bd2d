"""Settle how many images a batch has, before a training whose ``data.batch_size`` is ``auto``.

The largest power of two that fits is taken. On a GPU batches are tried; elsewhere the memory of a step is
measured on small ones. Larger batches than a limit, which the log names, make a training no faster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from cnnexp.optim import asks_again
from cnnexp.runs import RunFolder
from cnnexp.training.assemble import make_classifier
from cnnexp.training.classifier import Classifier
from cnnexp.training.quiet import quiet_lightning
from cnnexp.training.trainer_settings import lightning_settings
from cnnexp.training.training_job import TrainingJob
from cnnexp.tuning.memory import free_bytes, peak_bytes, saved_bytes

log = logging.getLogger(__name__)

MOST = {"cuda": 8192}  # images, by the type of device
MOST_ELSEWHERE = 1024
_STEPS = 10  # that an epoch has at least: a batch is a tenth of the training images at most
_SHARE = 0.5  # of the memory that is free; others want some, and validation does
_SHARE_OF_GPU = 0.9
_MEASURABLE = 64 << 20  # bytes beside which the process's other memory counts little
_FIRST, _LARGEST_MEASURED = 8, 256  # images


@dataclass(frozen=True)
class Fit:
    """How many images a batch may have.

    Attributes:
        images: How many.
        why: What limits it, as the log says it.
    """

    images: int
    why: str


def batch_size_as_before(job: TrainingJob, folder: RunFolder) -> TrainingJob:
    """``job`` with the batch size that its run in ``folder`` chose, if it did."""
    chosen = (folder.read_config().get("data") or {}).get("chosen_batch_size")
    return job if not job.choose_batch_size or chosen is None else _with(job, int(chosen))


def settle_batch_size(job: TrainingJob) -> TrainingJob:
    """``job`` with a batch size, also in its config, if it leaves that open; says it in a line of the log.

    It draws random numbers, so that it comes before the seed is set. Nothing that it makes is kept.
    """
    if not job.choose_batch_size:
        return job
    images = len(job.data.train)
    with quiet_lightning():
        settings = lightning_settings(job, Path()) | {"profiler": None, "fast_dev_run": False}
        trainer = L.Trainer(
            **settings,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    device = trainer.strategy.root_device
    step = _training_step(job, trainer)
    most, limit = MOST.get(device.type, MOST_ELSEWHERE), f"the limit on a {device.type}"
    if images // _STEPS < most:
        most, limit = max(1, images // _STEPS), f"a tenth of {images:,} training images"
    if device.type == "cuda":
        fit = _by_trying(step, most, limit, device)
    else:
        fit = by_measuring(step, most, limit, free_bytes())
    log.info("data.batch_size auto: %d images (%s)", fit.images, fit.why)
    return _with(job, fit.images)


def _with(job: TrainingJob, images: int) -> TrainingJob:
    job.data.batch_size = images
    node = {**job.config.get("data", {}), "chosen_batch_size": images}
    return replace(job, choose_batch_size=False, config={**job.config, "data": node})


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest power of two up to ``most`` (≥ 1) for which ``fits`` holds, which is asked from 1 on until
    it does not; 0 if not even 1 fits.

    Examples:
        >>> from cnnexp.training.batch_size import largest_that_fits
        >>> largest_that_fits(lambda images: images <= 100, most=1024)
        64
    """
    found, images = 0, 1
    while images <= most and fits(images):
        found, images = images, 2 * images
    return found


def by_measuring(step: Callable[[int], object], most: int, limit: str, free: int | None) -> Fit:
    """The batch whose step takes at most half of the ``free`` bytes of main memory.

    Args:
        step: Makes a training step of so many images.
        most: The most images that are sensible, ≥ 1.
        limit: Why not more than that.
        free: None if nobody knows.
    """
    if free is None:
        return Fit(
            largest_that_fits(lambda _: True, most),
            f"{limit}; how much memory is free is not known",
        )
    an_image, fixed = _bytes_of(step, most)
    room = _SHARE * free - fixed
    images = max(1, largest_that_fits(lambda n: n * an_image <= room, most))
    what = f"{an_image / 1e6:.3g} MB each, {free / 1e9:.3g} GB free, of which at most half is taken"
    return Fit(images, f"{limit}; {what}" if 2 * images > most else what)


def _bytes_of(step: Callable[[int], object], most: int) -> tuple[float, float]:
    """The bytes that a step takes for each image, and those that it takes for any batch."""
    cpu = torch.device("cpu")
    images, before = min(_FIRST, most), 0
    step(images)  # moments of the optimiser, kernels, what libraries keep
    peak = peak_bytes(partial(step, images), cpu)
    while peak is not None and peak < _MEASURABLE and 2 * images <= min(most, _LARGEST_MEASURED):
        images, before = 2 * images, peak
        peak = peak_bytes(partial(step, images), cpu)
    if peak is None:  # no Linux: activations, and as much again for their gradients
        return 2 * saved_bytes(lambda: torch.as_tensor(step(images))) / images, 0.0
    rise = (peak - before) / (images / 2) if before else 0.0
    an_image = rise if 0 < rise * images <= peak else peak / images
    return an_image, peak - images * an_image


def _by_trying(step: Callable[[int], object], most: int, limit: str, device: torch.device) -> Fit:
    """The batch whose step takes at most nine tenths of the memory of a GPU."""
    whole = torch.cuda.get_device_properties(device).total_memory

    def fits(images: int) -> bool:
        torch.cuda.reset_peak_memory_stats(device)
        try:
            step(images)
        except torch.OutOfMemoryError:
            return False
        return torch.cuda.max_memory_allocated(device) <= _SHARE_OF_GPU * whole

    images = max(1, largest_that_fits(fits, most))
    what = f"tried, the next does not fit {_SHARE_OF_GPU:.0%} of {whole / 1e9:.3g} GB"
    torch.cuda.empty_cache()
    return Fit(images, limit if 2 * images > most else what)


def _training_step(job: TrainingJob, trainer: L.Trainer) -> Callable[[int], Any]:
    """What makes a training step of so many random images, and returns their loss."""
    images = job.data.images
    classifier: Classifier = make_classifier(job, images)
    trainer.precision_plugin.convert_module(classifier)
    classifier = classifier.to(trainer.strategy.root_device).train()
    optimizer: Any = job.optimizer(classifier.network)
    if callable(train := getattr(optimizer, "train", None)):  # a schedule-free one
        train()

    def step(size: int) -> torch.Tensor:
        pixels = torch.rand(size, images.channels, *images.image_size)
        labels = images.train.labels[torch.arange(size) % len(images.train)]
        batch = trainer.precision_plugin.convert_input(pixels).to(classifier.device)
        targets = labels.to(classifier.device)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            with trainer.precision_plugin.forward_context():
                loss = classifier.objective(batch, targets)
            loss.backward()
            return loss

        if asks_again(optimizer):
            return torch.as_tensor(optimizer.step(closure))
        loss = closure()
        optimizer.step()
        return loss.detach()

    return step
