# kernel not flipped
"""∂L/∂x as a 'full' convolution of g, in which the kernel was not turned round."""
import numpy as np


def corr(a, k):
    H, W = a.shape[0] - k.shape[0] + 1, a.shape[1] - k.shape[1] + 1
    return np.array([[(a[i : i + k.shape[0], j : j + k.shape[1]] * k).sum() for j in range(W)] for i in range(H)])


def forward(x, w, b):
    return np.array([[sum(corr(xc, kc) for xc, kc in zip(im, ker)) + bias for ker, bias in zip(w, b)] for im in x])


def backward(grad_output, x, w, b):
    kh, kw = w.shape[2:]
    g = np.pad(grad_output, ((0, 0), (0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1)))
    dx = np.zeros_like(x)
    dw = np.zeros_like(w)
    for n in range(x.shape[0]):
        for o in range(w.shape[0]):
            for c in range(x.shape[1]):
                dx[n, c] += corr(g[n, o], w[o, c])
                dw[o, c] += corr(x[n, c], grad_output[n, o])
    return dx, dw, grad_output.sum((0, 2, 3))
