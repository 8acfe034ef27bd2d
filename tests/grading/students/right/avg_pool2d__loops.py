"""Average-pooling by loops."""
import numpy as np


def forward(x, kernel_size, stride, padding=0):
    xp = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    P, Q = (xp.shape[2] - kernel_size) // stride + 1, (xp.shape[3] - kernel_size) // stride + 1
    y = np.zeros((*x.shape[:2], P, Q))
    for p in range(P):
        for q in range(Q):
            y[:, :, p, q] = xp[:, :, p * stride : p * stride + kernel_size, q * stride : q * stride + kernel_size].mean((2, 3))
    return y


def backward(dout, x, kernel_size, stride, padding=0):
    dxp = np.zeros((*x.shape[:2], x.shape[2] + 2 * padding, x.shape[3] + 2 * padding))
    for p in range(dout.shape[2]):
        for q in range(dout.shape[3]):
            dxp[:, :, p * stride : p * stride + kernel_size, q * stride : q * stride + kernel_size] += dout[:, :, p, q, None, None] / kernel_size**2
    return dxp[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]]
