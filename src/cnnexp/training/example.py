"""A batch like those of a training, and a pass as the training makes it: what choices are measured by."""

from __future__ import annotations

from collections.abc import Callable

import lightning as L
import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor, nn

from cnnexp.training.classifier import Classifier
from cnnexp.training.ranks import Ranks
from cnnexp.training.training_job import TrainingJob


def example_batch(
    job: TrainingJob, classifier: Classifier, trainer: L.Trainer, ranks: Ranks
) -> Tensor:
    """A rank's part of a batch of ``job``, of the size, dtype, layout and device that it trains on.

    It does not depend on the data, and draws none of the training's random numbers.
    """
    images = job.data.images
    size = (job.data.batch_size // ranks.count, images.channels, *images.image_size)
    generator = torch.Generator().manual_seed(0)
    normalised = classifier.normalise(torch.rand(size, generator=generator))
    return trainer.precision_plugin.convert_input(normalised).to(trainer.strategy.root_device)


def run_in(precision: Precision) -> Callable[[nn.Module, Tensor], Tensor]:
    """What calls a network with a batch as Lightning does in ``precision``."""

    def run(network: nn.Module, batch: Tensor) -> Tensor:
        with precision.forward_context():
            return precision.convert_module(network)(batch)

    return run
