"""Convolution as one product of matrices: windows become columns by index arrays."""
import numpy as np


def indices(x_shape, kh, kw, padding, stride):
    N, C, H, W = x_shape
    out_h = (H + 2 * padding - kh) // stride + 1
    out_w = (W + 2 * padding - kw) // stride + 1
    i0 = np.tile(np.repeat(np.arange(kh), kw), C)
    j0 = np.tile(np.arange(kw), kh * C)
    i1 = stride * np.repeat(np.arange(out_h), out_w)
    j1 = stride * np.tile(np.arange(out_w), out_h)
    i = i0.reshape(-1, 1) + i1.reshape(1, -1)
    j = j0.reshape(-1, 1) + j1.reshape(1, -1)
    k = np.repeat(np.arange(C), kh * kw).reshape(-1, 1)
    return k, i, j


def im2col(x, kh, kw, padding, stride):
    xp = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    k, i, j = indices(x.shape, kh, kw, padding, stride)
    cols = xp[:, k, i, j]
    return cols.transpose(1, 2, 0).reshape(kh * kw * x.shape[1], -1)


def col2im(cols, x_shape, kh, kw, padding, stride):
    N, C, H, W = x_shape
    xp = np.zeros((N, C, H + 2 * padding, W + 2 * padding))
    k, i, j = indices(x_shape, kh, kw, padding, stride)
    cols = cols.reshape(C * kh * kw, -1, N).transpose(2, 0, 1)
    np.add.at(xp, (slice(None), k, i, j), cols)
    return xp[:, :, padding : padding + H, padding : padding + W]


def forward(x, w, b, stride=1, padding=0):
    O, C, kh, kw = w.shape
    N, _, H, W = x.shape
    P, Q = (H + 2 * padding - kh) // stride + 1, (W + 2 * padding - kw) // stride + 1
    cols = im2col(x, kh, kw, padding, stride)
    y = w.reshape(O, -1) @ cols + b.reshape(-1, 1)
    return y.reshape(O, P, Q, N).transpose(3, 0, 1, 2), (x, w, cols, stride, padding)


def backward(dout, cache):
    x, w, cols, stride, padding = cache
    O, C, kh, kw = w.shape
    db = np.sum(dout, axis=(0, 2, 3))
    flat = dout.transpose(1, 2, 3, 0).reshape(O, -1)
    dw = (flat @ cols.T).reshape(w.shape)
    dx = col2im(w.reshape(O, -1).T @ flat, x.shape, kh, kw, padding, stride)
    return dx, dw, db
