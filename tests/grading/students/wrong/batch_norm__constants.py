# mean and variance paths forgotten
"""Batch normalisation that takes mean and variance for constants."""
import numpy as np


def forward(x, gamma, beta, eps=1e-5):
    mu = x.mean(axis=(0, 2, 3), keepdims=True)
    var = x.var(axis=(0, 2, 3), keepdims=True)
    xhat = (x - mu) / np.sqrt(var + eps)
    return xhat * gamma.reshape(1, -1, 1, 1) + beta.reshape(1, -1, 1, 1), (xhat, var, gamma, eps)


def backward(dout, cache):
    xhat, var, gamma, eps = cache
    return dout * gamma.reshape(1, -1, 1, 1) / np.sqrt(var + eps), (dout * xhat).sum((0, 2, 3)), dout.sum((0, 2, 3))
