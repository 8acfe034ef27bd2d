"""What a training consists of, as plain objects: no config, no Hydra."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import nn
from torchmetrics import Metric

from cnnexp.data import ImageDataModule, ImageSet
from cnnexp.diagnostics import DiagnosticsSettings
from cnnexp.nn import replace_layers
from cnnexp.privacy import PrivacySettings
from cnnexp.regularization import Regularizer, taking_part
from cnnexp.runs import RunFolder
from cnnexp.runs.goodness import less_is_better
from cnnexp.training.classifier import OptimizerFactory, SchedulerFactory
from cnnexp.training.non_finite import OnNaN
from cnnexp.training.ranks import Parallelism
from cnnexp.training.starting_weights import StartingWeights
from cnnexp.training.steps_per_call import StepsPerCall

LossFactory = Callable[[ImageDataModule], nn.Module]
MetricsFactory = Callable[[ImageSet], Mapping[str, Metric]]


def mode_of(monitor: str) -> Literal["max", "min"]:
    """Whether the greatest or the least of the metric ``monitor`` is the best."""
    return "min" if less_is_better(monitor) else "max"


@dataclass
class TrainingJob:
    """One training, ready to run.

    Attributes:
        data: Where the images come from.
        network: Makes the network for the images; called once the seed is set.
        start: The weights that the network begins with; None for those that ``network`` gives it.
        optimizer: Makes the optimiser of the network.
        scheduler: Makes the schedule from the optimiser and the total of steps; None for none.
        loss: Makes the loss for the data; None for the softmax cross-entropy.
        metrics: Makes what is measured of validation and test images beside loss and score, by name.
        full_batch: One step an epoch, by all training images: gradient descent.
        regularizers: Methods that take part in the events of a step, in this order where two take part
            in the same one.
        backward: The algorithm of all layers, see ``cnnexp.nn.replace_layers``.
        backward_layers: With ``backward="auto"``, the algorithm of each layer; None to choose them.
        recompute, functions: Whether layers compute again what follows from what is kept, and whether blocks
            are made of functions that the network calls, see ``cnnexp.nn.replace_layers``.
        compile: Whether torch.compile computes the training passes: ``off``, ``on``, or ``auto``, where that
            is faster.
        compile_chosen: With ``auto``, what was chosen; None to measure.
        choose_precision: Whether it is measured before the first step if ``bf16-mixed`` is faster than the
            trainer's precision, which is ``32-true``.
        choose_batch_size: Whether ``data.batch_size`` is to be the largest that fits into memory.
        trainer: Arguments of ``lightning.Trainer``; its ``profiler`` may be a function that makes one for
            a folder.
        parallel: How several processes train together; None for one.
        callbacks: Makes callbacks beyond cnnexp's own and the regularisers'.
        loggers: Makes loggers beyond metrics.csv.
        seed: Of weights and data order.
        monitor: The validation metric whose best epoch is tested: the greatest, or for a loss the
            least.
        test: Test the best epoch at the end; False leaves the test images unread.
        checkpoint_steps: Steps of the optimiser between two checkpoints to resume from; None for one an
            epoch.
        channels_last: Memory layout of images and kernels.
        steps_per_call: Steps of the optimiser in one call of Lightning's loop, ≥ 1, or ``auto``, see
            ``cnnexp.training.steps_per_call``.
        on_nan: What to do about a loss or gradient that is infinite or NaN: ``stop`` the training,
            ``skip`` the step, or ``lower_lr``: go back to the last checkpoint with half the learning rate.
        privacy: What is promised to those whose images are trained on; nothing by default.
        diagnostics: What the training is asked about itself; ``off`` by default.
        debug: What the run is to find out, beside all real ones: ``overfit``, ``profile``, … see
            ``conf/debug``; ``none`` for a real run.
        config: The resolved config that describes all this; kept in the run folder.
        identity: Of the run, written into its checkpoints, so that no other run resumes from them; ""
            for none.
    """

    data: ImageDataModule
    network: Callable[[ImageSet], nn.Module]
    optimizer: OptimizerFactory
    scheduler: SchedulerFactory | None = None
    loss: LossFactory | None = None
    metrics: MetricsFactory | None = None
    full_batch: bool = False
    start: StartingWeights | None = None
    regularizers: Sequence[Regularizer] = ()
    backward: str = "auto"
    backward_layers: Mapping[str, str] | None = None
    recompute: bool = False
    functions: bool = False
    compile: Literal["off", "on", "auto"] = "off"
    compile_chosen: bool | None = None
    choose_precision: bool = False
    choose_batch_size: bool = False
    trainer: Mapping[str, Any] = field(default_factory=dict)
    parallel: Parallelism | None = None
    callbacks: Callable[[], Sequence[Callback]] = tuple
    loggers: Callable[[RunFolder], Sequence[Logger]] = lambda _folder: ()
    seed: int = 0
    monitor: str = "val/acc"
    test: bool = True
    checkpoint_steps: int | None = None
    channels_last: bool = True
    steps_per_call: StepsPerCall = "auto"
    on_nan: OnNaN = "stop"
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    diagnostics: DiagnosticsSettings = field(
        default_factory=lambda: DiagnosticsSettings(name="off")
    )
    debug: str = "none"
    config: Mapping[str, Any] = field(default_factory=dict)
    identity: str = ""

    @property
    def mode(self) -> Literal["max", "min"]:
        """Whether the greatest or the least ``monitor`` is the best."""
        return mode_of(self.monitor)

    def with_backward(self, network: nn.Module) -> nn.Module:
        """``network``, its layers changed in place to those of ``backward``; logs nothing."""
        asked = {"recompute": self.recompute, "functions": self.functions}
        return replace_layers(network, self.backward, **asked, quiet=True)

    def regularizing_callbacks(self) -> list[Callback]:
        """New callbacks of the regularisers that take part outside of a step."""
        parts = taking_part(self.regularizers, "callbacks")
        return [made for part in parts for made in part.callbacks(self.monitor, self.mode)]
