"""The block with a dict of parameters for each of its two layers."""

import numpy as np


def conv_relu_pool_forward(x, w, b, conv_param, pool_param):
    s, p = conv_param["stride"], conv_param["pad"]
    k, ps = pool_param["pool_height"], pool_param["stride"]
    xp = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
    v = np.lib.stride_tricks.sliding_window_view(xp, w.shape[2:], axis=(2, 3))[:, :, ::s, ::s]
    z = np.einsum("nchwij,ocij->nohw", v, w) + b[None, :, None, None]
    a = np.maximum(z, 0)
    y = np.lib.stride_tricks.sliding_window_view(a, (k, k), axis=(2, 3))[:, :, ::ps, ::ps].max(
        (4, 5)
    )
    return y, (x, xp, v, w, z, a, s, p, k, ps)


def conv_relu_pool_backward(dout, cache):
    x, xp, v, w, z, a, s, p, k, ps = cache
    da = np.zeros_like(a)
    for n, c, i, j in np.ndindex(dout.shape):
        q = a[n, c, i * ps : i * ps + k, j * ps : j * ps + k]
        u, t = np.unravel_index(q.argmax(), q.shape)
        da[n, c, i * ps + u, j * ps + t] += dout[n, c, i, j]
    dz = da * (z > 0)
    dxp = np.zeros_like(xp)
    for i, j in np.ndindex(dz.shape[2:]):
        dxp[:, :, i * s : i * s + w.shape[2], j * s : j * s + w.shape[3]] += np.einsum(
            "no,ocij->ncij", dz[:, :, i, j], w
        )
    return (
        dxp[:, :, p : p + x.shape[2], p : p + x.shape[3]],
        np.einsum("nohw,nchwij->ocij", dz, v),
        dz.sum((0, 2, 3)),
    )
