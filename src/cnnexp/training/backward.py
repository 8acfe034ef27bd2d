"""Settle which algorithm computes each layer's gradients, before the first step."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import lightning as L
import torch
from torch import nn

from cnnexp import ops
from cnnexp.kernels.cpu import conv_relu_pool as cpu_kernels
from cnnexp.nn import ConvReLUPool, CrossEntropyLoss, conversion
from cnnexp.training.classifier import Classifier
from cnnexp.training.ranks import ALONE, Ranks
from cnnexp.training.training_job import TrainingJob
from cnnexp.tuning import choose_algorithms, pin_algorithms

log = logging.getLogger(__name__)

# what the fused blocks compute in, by Lightning's name of a precision
_DTYPES = {
    "32-true": torch.float32,
    "64-true": torch.float64,
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
}


def loss_layer(backward: str) -> nn.Module:
    """The softmax cross-entropy, by ``backward``; by our own formula with ``auto``."""
    name = "direct" if backward == ops.AUTO else ops.resolve_algorithm("cross_entropy", backward)
    return CrossEntropyLoss(algorithm=name)


def settle_backward(
    job: TrainingJob, classifier: Classifier, trainer: L.Trainer, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """Pin an algorithm for each layer if ``job`` leaves them to ``auto``.

    They are those of ``job.backward_layers``, else the fastest on the trainer's device, dtype and
    layout for a batch of the training's size. The choice does not depend on the data and draws no
    random number; the network is left as it was. The log says which layers stay torch's, and why.

    Returns:
        The config of the run, with the choice in it.
    """
    if ranks.first and job.backward != "native":
        conversion(classifier.network).log()
        _say_what_has_no_kernels(classifier.network, trainer)
    if job.backward != ops.AUTO:
        return dict(job.config)
    layers = job.backward_layers
    if layers is None:
        measured = _measure(job, classifier, trainer, ranks.count) if ranks.first else {}
        layers = ranks.from_first(measured)
        counts = Counter(layers.values())
        chosen = ", ".join(f"{name} ×{count}" for name, count in counts.most_common())
        log.info("backward auto: chose %s (each layer's is in config.yaml)", chosen or "nothing")
    pin_algorithms(classifier.network, layers)
    node = {**job.config.get("backward", {"name": ops.AUTO}), "layers": dict(layers)}
    return {**job.config, "backward": node}


def _say_what_has_no_kernels(network: nn.Module, trainer: L.Trainer) -> None:
    """Warn of fused blocks that are asked for by name, and computed by their parts in this precision."""
    blocks = [
        layer
        for layer in network.modules()
        if isinstance(layer, ConvReLUPool) and layer.algorithm == "fused"
    ]
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if blocks and on_cpu and _DTYPES.get(trainer.precision) not in cpu_kernels.dtypes():
        log.warning(
            "backward=fused: %d blocks are computed by their parts, which is slower, since the kernels on "
            "this cpu take %s, not accelerator.precision=%s; backward=auto takes the fastest",
            len(blocks),
            cpu_kernels.dtypes_in_words(),
            trainer.precision,
        )


def _measure(
    job: TrainingJob, classifier: Classifier, trainer: L.Trainer, ranks: int
) -> dict[str, str]:
    images = job.data.images
    size = (job.data.batch_size // ranks, images.channels, *images.image_size)
    precision = trainer.precision_plugin
    generator = torch.Generator().manual_seed(0)  # the random numbers of the run stay as they are
    normalised = classifier.normalise(torch.rand(size, generator=generator))
    batch = precision.convert_input(normalised).to(trainer.strategy.root_device)

    def run(network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        with precision.forward_context():
            return precision.convert_module(network)(batch)

    return choose_algorithms(classifier.network, batch, run)
