"""Max-pooling by loops, the winner found again in the backward by argmax."""
import numpy as np


def forward(x, kernel_size, stride, padding=0):
    p = padding
    xp = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)), constant_values=-np.inf)
    N, C, H, W = xp.shape
    P, Q = (H - kernel_size) // stride + 1, (W - kernel_size) // stride + 1
    y = np.zeros((N, C, P, Q))
    for i in range(P):
        for j in range(Q):
            y[:, :, i, j] = xp[:, :, i * stride : i * stride + kernel_size, j * stride : j * stride + kernel_size].max(axis=(2, 3))
    return y


def backward(grad_output, x, kernel_size, stride, padding=0):
    p, k = padding, kernel_size
    xp = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)), constant_values=-np.inf)
    dxp = np.zeros(xp.shape)
    N, C, P, Q = grad_output.shape
    for n in range(N):
        for c in range(C):
            for i in range(P):
                for j in range(Q):
                    window = xp[n, c, i * stride : i * stride + k, j * stride : j * stride + k]
                    u, v = np.unravel_index(np.argmax(window), window.shape)
                    dxp[n, c, i * stride + u, j * stride + v] += grad_output[n, c, i, j]
    return dxp[:, :, p : p + x.shape[2], p : p + x.shape[3]]
