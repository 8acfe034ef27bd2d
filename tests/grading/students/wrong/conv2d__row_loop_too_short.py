# last window left out
"""A backward whose loops end one window too early."""
import numpy as np


def conv_forward(x, w, b, conv_param):
    s, p = conv_param["stride"], conv_param["pad"]
    xp = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
    P, Q = 1 + (xp.shape[2] - w.shape[2]) // s, 1 + (xp.shape[3] - w.shape[3]) // s
    out = np.zeros((x.shape[0], w.shape[0], P, Q))
    for i in range(P):
        for j in range(Q):
            out[:, :, i, j] = np.tensordot(xp[:, :, i * s : i * s + w.shape[2], j * s : j * s + w.shape[3]], w, ([1, 2, 3], [1, 2, 3])) + b
    return out, (x, w, b, conv_param)


def conv_backward(dout, cache):
    x, w, b, conv_param = cache
    s, p = conv_param["stride"], conv_param["pad"]
    xp = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for i in range(dout.shape[2] - 1):
        for j in range(dout.shape[3] - 1):
            at = np.s_[:, :, i * s : i * s + w.shape[2], j * s : j * s + w.shape[3]]
            dw += np.tensordot(dout[:, :, i, j], xp[at], (0, 0))
            dxp[at] += np.tensordot(dout[:, :, i, j], w, (1, 0))
    return dxp[:, :, p : p + x.shape[2], p : p + x.shape[3]], dw, dout.sum((0, 2, 3))
