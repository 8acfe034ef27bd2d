"""How much the gradients of single samples differ: variance and signal-to-noise ratio, by layer.

    ḡ = Σ_n g_n / N                                   the signal: the gradient of the mean loss
    tr Σ = Σ_n ‖g_n − ḡ‖² / (N − 1)                   the noise: the variance of one sample's gradient
         = (Σ_n ‖g_n‖² − N·‖ḡ‖²) / (N − 1)

Norms and sums are enough for it; no gradient of a sample is written. The second form subtracts, so that in
float32 the variance is exact to some 1e-6 of Σ_n ‖g_n‖² / N, not of itself.

Source: McCandlish et al., "An Empirical Model of Large-Batch Training" (2018), appendix A, for the unbiased
square of the signal and the noise scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnexp.nn.per_sample.one_pass import Loss, passed
from cnnexp.nn.per_sample.units import units_of
from cnnexp.ops.precision import whole_float32

__all__ = ["GradientNoise", "LayerNoise", "gradient_noise"]


@dataclass(frozen=True)
class LayerNoise:
    """Of the gradients of N ≥ 2 samples.

    Attributes:
        samples: N.
        mean_square: ‖ḡ‖², of the mean gradient.
        variance: tr Σ, the sum of the variances of all elements of one sample's gradient.
    """

    samples: int
    mean_square: float
    variance: float

    @property
    def signal_to_noise(self) -> float:
        """‖ḡ‖ / √(tr Σ), of one sample; infinite where all gradients are equal, NaN where all are 0.

        That of the batch's mean gradient is √N times as large.
        """
        if self.variance == 0:
            return math.inf if self.mean_square else math.nan
        return math.sqrt(self.mean_square / self.variance)

    @property
    def noise_scale(self) -> float:
        """Tr Σ / ‖G‖², ‖G‖² = ‖ḡ‖² − tr Σ / N: the batch at which noise and signal are equally large.

        Infinite where this batch is too small to see a signal.
        """
        signal = self.mean_square - self.variance / self.samples
        return self.variance / signal if signal > 0 else math.inf


@dataclass(frozen=True)
class GradientNoise(LayerNoise):
    """Of all parameters together.

    Attributes:
        layers: The same of each layer's parameters, by the layer's name.
    """

    layers: Mapping[str, LayerNoise]


def gradient_noise(network: nn.Module, loss: Loss, batch: Sequence[Tensor]) -> GradientNoise:
    """Variance and signal-to-noise ratio of the samples' gradients, of the network and of each layer.

    Args:
        network: As of :func:`~cnnexp.nn.per_sample_gradients`, as are the other two.
        loss: Of one sample.
        batch: ``(inputs, targets)`` of at least two samples.

    Raises:
        ValueError: There are less than two samples.
        PerSampleError: As :func:`~cnnexp.nn.per_sample_gradients`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> x, y = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)  # gradients 2·x²·w: 2 and 18
        >>> network = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(network.weight)
        >>> noise = gradient_noise(network, nn.MSELoss(), (x, y))
        >>> noise.mean_square, noise.variance  # 10², (8² + 8²) / 1
        (100.0, 128.0)
    """
    if len(batch[-1]) < 2:
        raise ValueError(f"a batch of {len(batch[-1])} has no variance; give two samples or more")
    calls, samples = passed(network, loss, batch)
    layers: dict[str, LayerNoise] = {}
    with torch.no_grad(), whole_float32():
        for unit in units_of(calls):
            whole = float(unit.squared_norms().sum())
            ones = torch.full((samples,), 1 / samples, dtype=torch.float64)
            mean_square = sum(_square(mean) for mean in unit.weighted(ones).values())
            variance = max(0.0, whole - samples * mean_square) / (samples - 1)
            layers[unit.name] = LayerNoise(samples, mean_square, variance)
    mean_square = sum(layer.mean_square for layer in layers.values())
    variance = sum(layer.variance for layer in layers.values())
    return GradientNoise(samples, mean_square, variance, layers)


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())
