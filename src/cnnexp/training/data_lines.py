"""What a run says of its images before it begins: that others stand in, which ones validate, that classes are
rare.
"""

from __future__ import annotations

import logging

import torch

from cnnexp.training.training_job import TrainingJob

__all__ = ["imbalance", "say_of_images"]

log = logging.getLogger(__name__)

_TIMES = 3  # a class with so many times as many images as another one is worth a line


def say_of_images(job: TrainingJob) -> None:
    """Log the notice of the image set, a line where its own images validate in the place of those that
    ``data.val_size`` would hold out, and one where some classes are rare.
    """
    images, held_out = job.data.images, job.data.val_size
    if images.notice:
        log.warning(images.notice)
    if images.val is not None and held_out:
        log.info(
            "%s brings %s validation images of its own, so that data.val_size=%s holds out none",
            *(images.name, f"{len(images.val):,}", held_out),
        )
    if line := imbalance(job):
        log.info("%s", line)


def imbalance(job: TrainingJob) -> str:
    """A line where the largest class has more than three times the training images of the smallest; else "".

    Of a private training there is none: how many images a class has is a fact about the data.
    """
    images = job.data.images
    if images.targets != "classes" or job.privacy.private:
        return ""
    counts = torch.bincount(job.data.train.labels, minlength=len(images.classes))
    least, most = int(counts.min()), int(counts.max())
    if most <= _TIMES * least:
        return ""
    rare, frequent = (images.classes[int(counts.argmin())], images.classes[int(counts.argmax())])
    times = f", {most / least:.1f} times as many" if least else ""
    weighted = (job.config.get("loss") or {}).get("class_weights") is not None
    advice = (
        "weighted by loss.class_weights"
        if weighted
        else "metrics=balanced_accuracy counts the classes alike, loss.class_weights=balanced trains so"
    )
    return (
        f"classes of very different size: {frequent} has {most:,} training images{times}, {rare} has "
        f"{f'{least:,}' if least else 'none'}; {advice}"
    )
