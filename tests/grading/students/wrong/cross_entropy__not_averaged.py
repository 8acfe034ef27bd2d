# sum for mean
"""The batch's size is forgotten in the backward."""
import numpy as np


def forward(x, y):
    shifted = x - x.max(axis=1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -logp[np.arange(x.shape[0]), y].mean(), (logp, y)


def backward(dout, cache):
    logp, y = cache
    d = np.exp(logp)
    d[np.arange(len(y)), y] -= 1
    return dout * d
