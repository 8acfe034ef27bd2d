"""The typed part of a config: every option that is cnnexp's own.

YAML files under ``conf/`` give the values; these classes give types and ranges. Parts in which
users name a class of their own (``_target_``) are checked against that class instead, see
``cnnexp.config.targets``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from cnnexp.config.ranges import check_one_of
from cnnexp.config.regularization import RegularizationConfig
from cnnexp.diagnostics import DiagnosticsSettings
from cnnexp.privacy import PrivacySettings

__all__ = [
    "AcceleratorConfig",
    "BackwardConfig",
    "CheckpointConfig",
    "CompileConfig",
    "DataConfig",
    "InitFromConfig",
    "ParametersConfig",
    "TrainConfig",
]


def _at_least(owner: object, part: str, least: float, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if value is not None and not (value >= least and math.isfinite(value)):
            raise ValueError(f"{part}.{name}={value}: must be at least {least} and finite")


def _number_or_share(name: str, value: float, least: int) -> None:
    fits = value >= least if isinstance(value, int) else 0 < value < 1
    if not fits:
        raise ValueError(
            f"{name}={value}: must be a whole number of images, at least {least}, or a share of them "
            f"between 0 and 1"
        )


def _folder_name(key: str, value: str) -> None:
    if not value or "/" in value or value.startswith("."):
        raise ValueError(f"{key}={value!r}: must be a plain folder name")


@dataclass
class DataConfig:
    """Which images, and how they are split and batched; see ``cnnexp.data.ImageDataModule``.

    In the YAML the loader's ``_target_`` and arguments stand beside the other keys; here they are
    ``load``. ``chosen_batch_size`` is what ``batch_size=auto`` chose: a run writes it into its config.yaml,
    and a run from that config takes the same.
    """

    load: dict[str, Any]
    batch_size: int | str = 128
    chosen_batch_size: int | None = None
    eval_batch_size: int = 500
    val_size: int | float | None = 5000
    folds: int | None = None
    fold: int | None = None
    train_size: int | float | None = None
    classes: list[str] | None = None
    split_seed: int = 0
    num_workers: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.batch_size, str) and self.batch_size != "auto":
            raise ValueError(f"data.batch_size={self.batch_size}: must be a whole number, or auto")
        if self.chosen_batch_size is not None and self.batch_size != "auto":
            raise ValueError(
                f"data.chosen_batch_size goes with data.batch_size=auto, not {self.batch_size}; set "
                f"data.chosen_batch_size=null"
            )
        if not isinstance(self.batch_size, str):
            _at_least(self, "data", 1, "batch_size")
        _at_least(self, "data", 1, "chosen_batch_size", "eval_batch_size")
        _at_least(self, "data", 0, "num_workers")
        self._check_folds()
        if self.val_size is not None:
            _number_or_share("data.val_size", self.val_size, 0)
        if self.train_size is not None:
            _number_or_share("data.train_size", self.train_size, 1)

    def _check_folds(self) -> None:
        if self.folds is None:
            if self.fold is not None:
                raise ValueError(
                    f"data.fold={self.fold}: is one of data.folds parts of the training images; add "
                    f"data.folds=5, or leave it out"
                )
            if self.val_size is None:
                raise ValueError(
                    "data.val_size=null: must be a number of images, 0 for none, or a share of them; null "
                    "goes with data.folds"
                )
            return
        whole = f"""-m data.folds={self.folds} "data.fold=range({self.folds})\""""
        if self.folds < 2:
            raise ValueError(
                f"data.folds={self.folds}: must be at least 2, as one part validates and the others are "
                f"trained on; null for no cross-validation"
            )
        if self.val_size is not None:
            raise ValueError(
                f"data.val_size={self.val_size}: with data.folds={self.folds} the fold is what validates; "
                f"leave data.val_size out"
            )
        if self.fold is None:
            raise ValueError(f"data.fold is missing: say which fold validates, or all: {whole}")
        if not 0 <= self.fold < self.folds:
            raise ValueError(
                f"data.fold={self.fold}: must be from 0 to {self.folds - 1}, as folds are counted from 0; "
                f"all of them: {whole}"
            )
        if not 0 <= self.split_seed < 2**32:
            raise ValueError(
                f"data.split_seed={self.split_seed}: must be between 0 and {2**32 - 1} with data.folds"
            )

    @property
    def images_per_batch(self) -> int:
        """The batch size; 1 where it is yet to be measured, by which all else can be checked."""
        size = self.chosen_batch_size if isinstance(self.batch_size, str) else self.batch_size
        return 1 if size is None else size

    @classmethod
    def with_loader(cls, node: Mapping[str, Any]) -> dict[str, Any]:
        """``node`` with every key that is not one of these fields moved into ``load``."""
        own = {f.name for f in fields(cls)} - {"load"}
        kept = {key: value for key, value in node.items() if key in own}
        return {**kept, "load": {key: value for key, value in node.items() if key not in own}}


@dataclass
class ParametersConfig:
    """Which parameters train, and how fast; see ``cnnexp.optim.param_groups``."""

    frozen: list[str] = field(default_factory=list)
    lr_scale: dict[str, float] = field(default_factory=dict)
    decay_all: bool = False


@dataclass
class InitFromConfig:
    """Which weights the network starts from; see ``cnnexp.training.StartingWeights``.

    ``sha256`` is that of the weights that were found: a run writes it into its config.yaml, and a run
    from that config takes no others.
    """

    weights: str | None = None
    layers: list[str] = field(default_factory=list)
    sha256: str | None = None


@dataclass
class BackwardConfig:
    """Which algorithm computes the gradients; see ``cnnexp.ops.algorithm_names``.

    ``layers`` is what ``auto`` chose for each layer: a run writes it into its config.yaml, and a run
    from that config takes the same. ``recompute``, ``functions``: see ``cnnexp.nn.replace_layers``.
    """

    name: str
    layers: dict[str, str] | None = None
    recompute: bool = False
    functions: bool = False

    def __post_init__(self) -> None:
        for key in ("recompute", "functions"):
            if getattr(self, key) and self.name not in ("auto", "fused"):
                raise ValueError(
                    f"backward.{key} goes with backward.name=auto or fused, not {self.name}; set "
                    f"backward.{key}=false"
                )
        if self.layers is not None and self.name != "auto":
            raise ValueError(
                f"backward.layers goes with backward.name=auto, not {self.name}; set backward.layers=null"
            )


@dataclass
class AcceleratorConfig:
    """The devices, and how numbers and images are kept on them; see ``cnnexp.config.accelerator``.

    ``chosen_precision`` is what ``precision=auto`` chose: a run writes it into its config.yaml, and a run
    from that config takes the same.
    """

    name: str
    devices: int | str = 1
    num_nodes: int = 1
    precision: str = "32-true"
    chosen_precision: str | None = None
    channels_last: bool = True
    steps_per_call: int | str = "auto"
    sync_batch_norm: bool = False
    gradient_compression: str = "none"
    bucket_mb: int = 25

    def __post_init__(self) -> None:
        names = ("auto", "cpu", "gpu", "mps", "ddp", "ddp_cpu", "fsdp")
        check_one_of("accelerator.name", self.name, names)
        if isinstance(self.devices, str) and self.devices != "auto":
            raise ValueError(f"accelerator.devices={self.devices}: must be a whole number, or auto")
        if not isinstance(self.devices, str):
            _at_least(self, "accelerator", 1, "devices")
        _at_least(self, "accelerator", 1, "num_nodes", "bucket_mb")
        if isinstance(self.steps_per_call, str) and self.steps_per_call != "auto":
            raise ValueError(
                f"accelerator.steps_per_call={self.steps_per_call}: must be a whole number ≥ 1, or auto"
            )
        if not isinstance(self.steps_per_call, str):
            _at_least(self, "accelerator", 1, "steps_per_call")
        allowed = ("32-true", "64-true", "bf16-mixed", "16-mixed", "auto")
        check_one_of("accelerator.precision", self.precision, allowed)
        self._check_choice()
        check_one_of(
            "accelerator.gradient_compression", self.gradient_compression, ("none", "bf16", "fp16")
        )
        if self.sync_batch_norm and self.name not in ("gpu", "ddp", "fsdp"):
            raise ValueError(
                f"accelerator.sync_batch_norm: torch synchronises statistics on GPUs only, not with "
                f"accelerator={self.name}"
            )

    def _check_choice(self) -> None:
        if self.precision == "auto" and self.name == "fsdp":
            raise ValueError(
                "accelerator.precision=auto: is not measured for weights in parts, accelerator=fsdp; set "
                "accelerator.precision=bf16-mixed or 32-true"
            )
        if self.chosen_precision is None:
            return
        if self.precision != "auto":
            raise ValueError(
                f"accelerator.chosen_precision goes with accelerator.precision=auto, not {self.precision}; "
                f"set accelerator.chosen_precision=null"
            )
        chosen = ("32-true", "bf16-mixed")
        check_one_of("accelerator.chosen_precision", self.chosen_precision, chosen)


@dataclass
class CompileConfig:
    """Whether torch.compile computes the training passes; see ``cnnexp.tuning.choose_compiled``.

    ``chosen`` is what ``auto`` chose: a run writes it into its config.yaml, and a run from that config takes
    the same.
    """

    name: str = "off"
    chosen: bool | None = None

    def __post_init__(self) -> None:
        check_one_of("compile.name", self.name, ("off", "on", "auto"))
        if self.chosen is not None and self.name != "auto":
            raise ValueError(
                f"compile.chosen goes with compile.name=auto, not {self.name}; set compile.chosen=null"
            )


@dataclass
class CheckpointConfig:
    """What is kept: see ``cnnexp.training.callbacks.Checkpoints``.

    The best epoch is that with the greatest val/acc, the least val/loss, or the best of another metric.
    """

    monitor: str = "val/acc"
    every_n_steps: int | None = None

    def __post_init__(self) -> None:
        _at_least(self, "checkpoint", 1, "every_n_steps")
        if not self.monitor.startswith("val/"):  # which there are is known once the data is
            raise ValueError(
                f"checkpoint.monitor={self.monitor}: must be one of val/acc, val/loss, or another metric of "
                f"the validation images, such as val/f1 with metrics=f1"
            )


@dataclass
class DebugConfig:
    """What a run beside all real ones is to find out; see ``conf/debug``."""

    name: str = "none"

    def __post_init__(self) -> None:
        known = ("none", "overfit", "fast", "profile", "limit", "anomaly")
        check_one_of("debug.name", self.name, known)


@dataclass
class SweepConfig:
    """Where the jobs of ``-m`` are kept, and whether those that failed run again."""

    name: str = ""
    retry: str | None = None

    def __post_init__(self) -> None:
        _folder_name("sweep.name", self.name or "sweep")
        if self.retry is not None:
            check_one_of("sweep.retry", self.retry, ("failed",))


@dataclass
class TrainConfig:
    """The root of ``conf/train.yaml``."""

    name: str
    output_dir: str
    seed: int
    data: DataConfig
    model: dict[str, Any]
    backward: BackwardConfig
    optimizer: dict[str, Any]
    accelerator: AcceleratorConfig
    trainer: dict[str, Any]
    validate_only: bool = False
    on_nan: str = "stop"
    test: bool = True
    init_from: InitFromConfig = field(default_factory=InitFromConfig)
    parameters: ParametersConfig = field(default_factory=ParametersConfig)
    loss: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    compile: CompileConfig = field(default_factory=CompileConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)
    logger: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    diagnostics: DiagnosticsSettings = field(default_factory=DiagnosticsSettings)
    debug: DebugConfig = field(default_factory=DebugConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    allow_targets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}: must be between 0 and {2**32 - 1}")
        check_one_of("on_nan", self.on_nan, ("stop", "skip", "lower_lr"))
        _folder_name("name", self.name)
