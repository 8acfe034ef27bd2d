"""Convolution by seven loops, with a cache between forward and backward."""
import numpy as np


def forward(x, w, b, stride=1, padding=0):
    xp = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    N, C, H, W = xp.shape
    O, _, KH, KW = w.shape
    P, Q = (H - KH) // stride + 1, (W - KW) // stride + 1
    y = np.zeros((N, O, P, Q))
    for n in range(N):
        for o in range(O):
            for p in range(P):
                for q in range(Q):
                    window = xp[n, :, p * stride : p * stride + KH, q * stride : q * stride + KW]
                    y[n, o, p, q] = np.sum(window * w[o]) + b[o]
    return y, (x, w, b, stride, padding)


def backward(dout, cache):
    x, w, b, stride, padding = cache
    xp = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    dxp, dw, db = np.zeros_like(xp), np.zeros_like(w), np.zeros_like(b)
    N, O, P, Q = dout.shape
    KH, KW = w.shape[2:]
    for n in range(N):
        for o in range(O):
            for p in range(P):
                for q in range(Q):
                    r, c = p * stride, q * stride
                    db[o] += dout[n, o, p, q]
                    dw[o] += dout[n, o, p, q] * xp[n, :, r : r + KH, c : c + KW]
                    dxp[n, :, r : r + KH, c : c + KW] += dout[n, o, p, q] * w[o]
    H, W = x.shape[2:]
    dx = dxp[:, :, padding : padding + H, padding : padding + W]
    return dx, dw, db
