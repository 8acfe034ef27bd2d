# stride forgotten
"""Two mistakes at once in ∂L/∂w: the step is forgotten, and only the last image counts."""
import numpy as np


def forward(x, w, b, stride, pad):
    xp = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    P, Q = (xp.shape[2] - w.shape[2]) // stride + 1, (xp.shape[3] - w.shape[3]) // stride + 1
    y = np.zeros((len(x), len(w), P, Q))
    for i, j in np.ndindex(P, Q):
        y[:, :, i, j] = np.einsum("ncuv,ocuv->no", xp[:, :, i * stride : i * stride + w.shape[2], j * stride : j * stride + w.shape[3]], w) + b
    return y


def backward(dout, x, w, b, stride, pad):
    xp = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    kh, kw = w.shape[2:]
    for n in range(len(x)):
        dw = np.zeros_like(w)
        for i, j in np.ndindex(dout.shape[2:]):
            dw += dout[n, :, i, j][:, None, None, None] * xp[n, :, i : i + kh, j : j + kw]
            dxp[n, :, i * stride : i * stride + kh, j * stride : j * stride + kw] += np.tensordot(dout[n, :, i, j], w, 1)
    H, W = x.shape[2:]
    return dxp[:, :, pad : pad + H, pad : pad + W], dw, dout.sum(axis=(0, 2, 3))
