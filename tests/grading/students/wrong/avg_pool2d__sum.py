# divided by the wrong number
"""The gradient of a sum-pool."""
import numpy as np


def avg_forward(x, kernel_size, stride):
    v = np.lib.stride_tricks.sliding_window_view(x, (kernel_size, kernel_size), (2, 3))
    return v[:, :, ::stride, ::stride].mean((-1, -2))


def avg_backward(dout, x, kernel_size, stride):
    dx = np.zeros_like(x)
    for p, q in np.ndindex(dout.shape[2:]):
        dx[:, :, p * stride : p * stride + kernel_size, q * stride : q * stride + kernel_size] += dout[:, :, p : p + 1, q : q + 1]
    return dx
