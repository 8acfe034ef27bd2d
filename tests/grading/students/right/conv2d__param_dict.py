"""Convolution with a dict of parameters and function names of a well-known course's assignments."""
import numpy as np


def conv_forward_naive(x, w, b, conv_param):
    stride, pad = conv_param["stride"], conv_param["pad"]
    N, C, H, W = x.shape
    F, _, HH, WW = w.shape
    rows, cols = 1 + (H + 2 * pad - HH) // stride, 1 + (W + 2 * pad - WW) // stride
    padded = np.pad(x, ((0,), (0,), (pad,), (pad,)), "constant")
    out = np.empty((N, F, rows, cols))
    for r in range(rows):
        for c in range(cols):
            region = padded[:, :, r * stride : r * stride + HH, c * stride : c * stride + WW]
            for f in range(F):
                out[:, f, r, c] = (region * w[f]).sum(axis=(1, 2, 3)) + b[f]
    return out, (x, w, b, conv_param)


def conv_backward_naive(dout, cache):
    x, w, b, conv_param = cache
    stride, pad = conv_param["stride"], conv_param["pad"]
    padded = np.pad(x, ((0,), (0,), (pad,), (pad,)), "constant")
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    HH, WW = w.shape[2:]
    for r in range(dout.shape[2]):
        for c in range(dout.shape[3]):
            rs, cs = r * stride, c * stride
            for f in range(w.shape[0]):
                up = dout[:, f, r, c][:, None, None, None]
                dw[f] += (up * padded[:, :, rs : rs + HH, cs : cs + WW]).sum(0)
                dpadded[:, :, rs : rs + HH, cs : cs + WW] += up * w[f]
    dx = dpadded[:, :, pad:-pad, pad:-pad] if pad else dpadded
    return dx, dw, dout.sum((0, 2, 3))
