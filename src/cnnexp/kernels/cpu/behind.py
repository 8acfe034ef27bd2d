"""What may be behind a convolution of few channels, by number: kernels are compiled with these."""

from __future__ import annotations

NOTHING = 0
TANH = 1  # then the mean over windows, or no pooling
RELU_MAX = 2  # ReLU, then the greatest of each window
SIDE_BY_SIDE = (
    2  # of windows 2×2 that share no pixel; 1 of others whose pixels all are in the image
)
