"""The typed part of the config group ``regularization``: one class a regulariser."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

__all__ = ["RegularizationConfig"]


@dataclass
class StrengthConfig:
    """See ``cnnexp.regularization.L1`` and ``L2``."""

    strength: float


@dataclass
class ElasticNetConfig:
    """See ``cnnexp.regularization.ElasticNet``."""

    strength: float
    l1_ratio: float = 0.5


@dataclass
class MaxNormConfig:
    """See ``cnnexp.regularization.MaxNorm``."""

    limit: float


@dataclass
class ClipConfig:
    """One of three ways to clip gradients: the norm of all, each value, or each unit's ratio."""

    norm: float | None = None
    value: float | None = None
    adaptive: float | None = None

    def __post_init__(self) -> None:
        given = [f.name for f in fields(self) if getattr(self, f.name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"regularization.clip: needs one of norm, value, adaptive, but got {given or 'none'}"
            )
        if not getattr(self, given[0]) > 0:
            value = getattr(self, given[0])
            raise ValueError(f"regularization.clip.{given[0]}={value}: must be above 0")


@dataclass
class LabelSmoothingConfig:
    """Targets (1 − epsilon)·one-hot + epsilon/classes (Szegedy et al., 2016, section 7)."""

    epsilon: float

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ValueError(
                f"regularization.label_smoothing.epsilon={self.epsilon}: must be between 0 and 1"
            )


@dataclass
class MixConfig:
    """See ``cnnexp.regularization.MixUp`` and ``CutMix``."""

    alpha: float


@dataclass
class RandomShiftConfig:
    """See ``cnnexp.data.RandomShift``."""

    pixels: int


@dataclass
class RandomRotationConfig:
    """See ``cnnexp.data.RandomRotation``."""

    degrees: float


@dataclass
class RandomElasticConfig:
    """See ``cnnexp.data.RandomElastic``."""

    alpha: float
    sigma: float


@dataclass
class RandomErasingConfig:
    """See ``cnnexp.data.RandomErasing``."""

    probability: float = 0.5
    area: list[float] = field(default_factory=lambda: [0.02, 0.33])


@dataclass
class EarlyStoppingConfig:
    """Stop when ``checkpoint.monitor`` has not become better for ``patience`` validations."""

    patience: int
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.patience < 0 or not (self.min_delta >= 0 and math.isfinite(self.min_delta)):
            raise ValueError(
                f"regularization.early_stopping: patience={self.patience} and "
                f"min_delta={self.min_delta} must be at least 0"
            )


@dataclass
class EMAConfig:
    """See ``cnnexp.training.callbacks.ExponentialAverage``."""

    decay: float


@dataclass
class SWAConfig:
    """See ``cnnexp.training.callbacks.StochasticWeightAverage``."""

    start: float


@dataclass
class RegularizationConfig:
    """The regularisers in use, each under its own name; null leaves one out."""

    l1: StrengthConfig | None = None
    l2: StrengthConfig | None = None
    elastic_net: ElasticNetConfig | None = None
    max_norm: MaxNormConfig | None = None
    clip: ClipConfig | None = None
    label_smoothing: LabelSmoothingConfig | None = None
    mixup: MixConfig | None = None
    cutmix: MixConfig | None = None
    random_shift: RandomShiftConfig | None = None
    random_rotation: RandomRotationConfig | None = None
    random_elastic: RandomElasticConfig | None = None
    random_erasing: RandomErasingConfig | None = None
    early_stopping: EarlyStoppingConfig | None = None
    ema: EMAConfig | None = None
    swa: SWAConfig | None = None

    def __post_init__(self) -> None:
        for name, part in ((f.name, getattr(self, f.name)) for f in fields(self)):
            for key, value in vars(part).items() if part is not None else ():
                if isinstance(value, float) and not math.isfinite(value):
                    raise ValueError(f"regularization.{name}.{key}={value}: must be finite")
        if self.ema is not None and self.swa is not None:
            raise ValueError("regularization: ema and swa both replace the weights; leave one out")
