# `=` for `+=`
"""The mistake that tests with 2×2 windows and stride 2 let through."""
import numpy as np


def forward(x, pool_size, stride):
    N, C, H, W = x.shape
    P, Q = (H - pool_size) // stride + 1, (W - pool_size) // stride + 1
    out = np.zeros((N, C, P, Q))
    for p in range(P):
        for q in range(Q):
            out[:, :, p, q] = np.max(x[:, :, p * stride : p * stride + pool_size, q * stride : q * stride + pool_size], axis=(2, 3))
    return out


def backward(dout, x, pool_size, stride):
    dx = np.zeros(x.shape)
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            for p in range(dout.shape[2]):
                for q in range(dout.shape[3]):
                    window = x[n, c, p * stride : p * stride + pool_size, q * stride : q * stride + pool_size]
                    dx[n, c, p * stride : p * stride + pool_size, q * stride : q * stride + pool_size] = (window == np.max(window)) * dout[n, c, p, q]
    return dx
