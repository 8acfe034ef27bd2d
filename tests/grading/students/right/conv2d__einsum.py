"""Convolution with sliding windows and einsum; ∂L/∂x is a convolution of the spread gradient."""
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def forward(x, w, b, stride=1, padding=0):
    xp = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    view = sliding_window_view(xp, w.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("ncpquv,ocuv->nopq", view, w) + b[None, :, None, None]


def backward(grad_output, x, w, b, stride=1, padding=0):
    n, o, p, q = grad_output.shape
    kh, kw = w.shape[2:]
    xp = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    view = sliding_window_view(xp, (kh, kw), axis=(2, 3))[:, :, ::stride, ::stride]
    dw = np.einsum("nopq,ncpquv->ocuv", grad_output, view)
    db = np.einsum("nopq->o", grad_output)
    spread = np.zeros((n, o, (p - 1) * stride + 1, (q - 1) * stride + 1))
    spread[:, :, ::stride, ::stride] = grad_output
    spread = np.pad(spread, ((0, 0), (0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1)))
    turned = w[:, :, ::-1, ::-1]
    full = np.einsum("noijuv,ocuv->ncij", sliding_window_view(spread, (kh, kw), axis=(2, 3)), turned)
    dxp = np.zeros_like(xp)
    dxp[:, :, : full.shape[2], : full.shape[3]] = full
    return dxp[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]], dw, db
