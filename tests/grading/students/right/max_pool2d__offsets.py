"""Max-pooling over offsets: the running maximum, and a mask for each offset that has not been taken."""
import numpy as np


def forward(x, k, stride):
    P, Q = (x.shape[2] - k) // stride + 1, (x.shape[3] - k) // stride + 1
    best = np.full((*x.shape[:2], P, Q), -np.inf)
    for u in range(k):
        for v in range(k):
            best = np.maximum(best, x[:, :, u : u + stride * (P - 1) + 1 : stride, v : v + stride * (Q - 1) + 1 : stride])
    return best


def backward(dout, x, k, stride):
    P, Q = dout.shape[2:]
    y = forward(x, k, stride)
    dx = np.zeros_like(x)
    taken = np.zeros(y.shape, bool)
    for u in range(k):
        for v in range(k):
            rows = slice(u, u + stride * (P - 1) + 1, stride)
            cols = slice(v, v + stride * (Q - 1) + 1, stride)
            mask = (x[:, :, rows, cols] == y) & ~taken
            taken |= mask
            dx[:, :, rows, cols] += mask * dout
    return dx
