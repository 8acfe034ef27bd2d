"""The gradient of each sample of a batch, from what one forward and backward pass leaves at the layers.

``per_sample_gradients`` writes them out; ``per_sample_norms``, ``gradient_noise`` and ``largest_gradients``
need no more than the pass. Differentially private training clips by the same machinery.
"""

from cnnexp.nn.per_sample.calls import Call
from cnnexp.nn.per_sample.errors import PerSampleError
from cnnexp.nn.per_sample.gradients import (
    LargestGradients,
    largest_gradients,
    per_sample_gradients,
    per_sample_norms,
)
from cnnexp.nn.per_sample.noise import GradientNoise, LayerNoise, gradient_noise
from cnnexp.nn.per_sample.units import sample_norms, units_of
from cnnexp.nn.per_sample.watch import watched, watched_layers

__all__ = [
    "Call",
    "GradientNoise",
    "LargestGradients",
    "LayerNoise",
    "PerSampleError",
    "gradient_noise",
    "largest_gradients",
    "per_sample_gradients",
    "per_sample_norms",
    "sample_norms",
    "units_of",
    "watched",
    "watched_layers",
]
