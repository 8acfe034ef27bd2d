"""Average-pooling without overlap only needs np.kron; others go by windows."""
import numpy as np


def forward(x, size):
    H, W = x.shape[2] // size * size, x.shape[3] // size * size
    x = x[:, :, :H, :W]
    return x.reshape(*x.shape[:2], H // size, size, W // size, size).mean((3, 5))


def backward(g, x, size):
    dx = np.zeros_like(x)
    spread = np.kron(g, np.ones((1, 1, size, size))) / (size * size)
    dx[:, :, : spread.shape[2], : spread.shape[3]] = spread
    return dx
