"""The block as a chain of three layers, in numpy."""
import numpy as np


def windows(a, k, s, P, Q):
    for p in range(P):
        for q in range(Q):
            yield p, q, (slice(None), slice(None), slice(p * s, p * s + k[0]), slice(q * s, q * s + k[1]))


def conv(x, w, b, s, pad):
    xp = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    kh, kw = w.shape[2:]
    P, Q = (xp.shape[2] - kh) // s + 1, (xp.shape[3] - kw) // s + 1
    z = np.zeros((len(x), len(w), P, Q))
    for p, q, at in windows(xp, (kh, kw), s, P, Q):
        z[:, :, p, q] = np.einsum("ncuv,ocuv->no", xp[at], w) + b
    return xp, z


def forward(x, w, b, stride, padding, pool_kernel, pool_stride):
    xp, z = conv(x, w, b, stride, padding)
    a = np.maximum(z, 0)
    k, s = pool_kernel, pool_stride
    y = np.zeros((*a.shape[:2], (a.shape[2] - k) // s + 1, (a.shape[3] - k) // s + 1))
    for p, q, at in windows(a, (k, k), s, *y.shape[2:]):
        y[:, :, p, q] = a[at].max((2, 3))
    return y, (x, w, b, stride, padding, k, s, xp, z, a)


def backward(dy, cache):
    x, w, b, stride, padding, k, s, xp, z, a = cache
    da = np.zeros_like(a)
    for p, q, at in windows(a, (k, k), s, *dy.shape[2:]):
        flat = a[at].reshape(*a.shape[:2], -1)
        hot = np.eye(k * k)[flat.argmax(-1)].reshape(a[at].shape)
        da[at] += hot * dy[:, :, p, q][:, :, None, None]
    dz = da * (z > 0)
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for p, q, at in windows(xp, w.shape[2:], stride, *z.shape[2:]):
        dxp[at] += np.einsum("no,ocuv->ncuv", dz[:, :, p, q], w)
        dw += np.einsum("no,ncuv->ocuv", dz[:, :, p, q], xp[at])
    H, W = x.shape[2:]
    return dxp[:, :, padding : padding + H, padding : padding + W], dw, dz.sum((0, 2, 3))
