# ties given to all
"""A mask of equality, as many write it."""
import numpy as np


def forward(x, k, s):
    P, Q = (x.shape[2] - k) // s + 1, (x.shape[3] - k) // s + 1
    return np.array([[x[:, :, i * s : i * s + k, j * s : j * s + k].max(axis=(2, 3)) for j in range(Q)] for i in range(P)]).transpose(2, 3, 0, 1)


def backward(dy, x, k, s):
    dx = 0 * x
    for i in range(dy.shape[2]):
        for j in range(dy.shape[3]):
            w = x[:, :, i * s : i * s + k, j * s : j * s + k]
            dx[:, :, i * s : i * s + k, j * s : j * s + k] += (w == w.max(axis=(2, 3), keepdims=True)) * dy[:, :, i, j][..., None, None]
    return dx
