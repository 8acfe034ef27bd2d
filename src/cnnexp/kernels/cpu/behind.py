"""What may be behind a convolution of few channels, by number: kernels are compiled with these."""

from __future__ import annotations

NOTHING = 0
TANH = 1  # then the mean over windows, or no pooling
RELU_MAX = 2  # ReLU, then the greatest of each window
