"""Settle which algorithm computes each layer's gradients, before the first step."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import nn

from cnnexp import ops
from cnnexp.kernels.cpu import conv_relu_pool as cpu_kernels
from cnnexp.nn import BatchNormAct2d, ConvReLUPool, CrossEntropyLoss, ReLU, conversion
from cnnexp.nn.deferring import Deferring, OperandBatchNorm2d
from cnnexp.nn.fuse import fusable_functions
from cnnexp.training.classifier import Classifier
from cnnexp.training.example import example_batch, run_in
from cnnexp.training.ranks import ALONE, Ranks
from cnnexp.training.training_job import TrainingJob
from cnnexp.tuning import StepChoice, choose_step, pin_algorithms

log = logging.getLogger(__name__)

# what the fused blocks compute in, by Lightning's name of a precision
_DTYPES = {
    "32-true": torch.float32,
    "64-true": torch.float64,
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
}


class Settled(NamedTuple):
    """What has been settled.

    Attributes:
        config: The config of the run, with the algorithm of each layer.
        step_ratio: The time of a step (forward and backward) by that of torch's own; None if it was not
            measured, since the layers were given.
    """

    config: dict[str, Any]
    step_ratio: float | None


def loss_layer(backward: str) -> nn.Module:
    """The softmax cross-entropy, by ``backward``; by torch's own, which is the faster, with ``auto``."""
    name = ops.NATIVE if backward == ops.AUTO else ops.resolve_algorithm("cross_entropy", backward)
    return CrossEntropyLoss(algorithm=name)


def settle_backward(
    job: TrainingJob,
    classifier: Classifier,
    trainer: L.Trainer,
    ranks: Ranks = ALONE,
    choice: StepChoice | None = None,
) -> Settled:
    """Pin an algorithm for each layer if ``job`` leaves them to ``auto``.

    They are those of ``job.backward_layers``, else those of ``choice``, which has been made, else those that
    make the step of the network the fastest on the trainer's device, in its dtype and layout, for a batch of
    the training's size. The choice does not depend on the data and draws no random number; the network is
    left as it was. The log says which layers stay torch's, and why, and what the choice gains.

    Returns:
        The config of the run, with the choice in it, and what it gains.
    """
    if ranks.first and job.backward != "native":
        conversion(classifier.network).log()
        _say_what_has_no_kernels(classifier.network, trainer)
        _say_what_is_recomputed(classifier.network)
        say_what_waits(job, classifier.network)
    if job.backward != ops.AUTO:
        return Settled(dict(job.config), None)
    layers, ratio = job.backward_layers, None
    if layers is None:
        choice = choice or _measured(job, classifier, trainer, ranks)
        layers, ratio = choice.layers, choice.ratio
        log.info("backward auto: %s (each layer's is in config.yaml)", choice)
    pin_algorithms(classifier.network, layers)
    node = {**job.config.get("backward", {"name": ops.AUTO}), "layers": dict(layers)}
    return Settled({**job.config, "backward": node}, ratio)


def _say_what_is_recomputed(network: nn.Module) -> None:
    """Log how many layers recompute: these are ``fused``, and ``auto`` chooses for the others."""
    layers = [each for each in network.modules() if getattr(each, "recompute", False)]
    norms, sums = (
        sum(isinstance(each, kinds) for each in layers)
        for kinds in (BatchNormAct2d, (ReLU, OperandBatchNorm2d))
    )
    if norms:
        log.info(
            "backward.recompute: what %s%s give is computed again; these layers are fused, whatever that "
            "costs in time",
            _counted(norms, "normalisation"),
            f" and {_counted(sums, 'sum')}" if sums else "",
        )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def say_what_waits(job: TrainingJob, network: nn.Module) -> None:
    """Log how many layers wait for functions that the network calls, or how many might."""
    alone = job.privacy.private or job.compile == "on"
    if job.functions and alone:
        log.warning(
            "backward.functions does nothing here: %s gets each layer alone",
            "torch.compile" if job.compile == "on" else "a private gradient",
        )
    elif alone:
        return
    elif job.functions:
        log.info(
            "backward.functions: layers that compute the activation or pooling that follows in the network's "
            "code: %d",
            sum(isinstance(each, (Deferring, OperandBatchNorm2d)) for each in network.modules()),
        )
    elif job.backward in ("fused", ops.AUTO) and (might := fusable_functions(network)):
        log.info(
            "layers after which the network's code itself calls an activation or a pooling: %d; with "
            "backward.functions=true each may be one block with it, faster and with less memory "
            "(docs/pytorch.md says for which code)",
            might,
        )


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


def _measured(
    job: TrainingJob, classifier: Classifier, trainer: L.Trainer, ranks: Ranks
) -> StepChoice:
    if not ranks.first:
        return ranks.from_first(None)
    batch = example_batch(job, classifier, trainer, ranks)
    run = run_in(trainer.precision_plugin)
    return ranks.from_first(choose_step(classifier.network, batch, run))
