"""Max-pooling that shares the gradient among equal elements: a subgradient as well."""
import numpy as np


def forward(x, kernel_size, stride, padding=0):
    xp = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2), constant_values=-1e30)
    return np.stack(
        [
            np.stack([xp[:, :, i : i + kernel_size, j : j + kernel_size].max((2, 3)) for j in range(0, xp.shape[3] - kernel_size + 1, stride)], -1)
            for i in range(0, xp.shape[2] - kernel_size + 1, stride)
        ],
        2,
    )


def backward(dy, x, kernel_size, stride, padding=0):
    xp = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2), constant_values=-1e30)
    dxp = np.zeros_like(xp)
    for a, i in enumerate(range(0, xp.shape[2] - kernel_size + 1, stride)):
        for b, j in enumerate(range(0, xp.shape[3] - kernel_size + 1, stride)):
            window = xp[:, :, i : i + kernel_size, j : j + kernel_size]
            mask = window == window.max((2, 3), keepdims=True)
            share = mask / mask.sum((2, 3), keepdims=True)
            dxp[:, :, i : i + kernel_size, j : j + kernel_size] += share * dy[:, :, a : a + 1, b : b + 1]
    return dxp[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]]
