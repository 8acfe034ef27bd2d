"""Softmax cross-entropy with the whole Jacobian of softmax, row by row."""
import numpy as np


def forward(z, t):
    e = np.exp(z - z.max(1)[:, None])
    s = e / e.sum(1)[:, None]
    return np.mean([-np.log(s[n, t[n]]) for n in range(len(t))]), (s, t)


def backward(dout, cache):
    s, t = cache
    N, C = s.shape
    dz = np.zeros_like(s)
    for n in range(N):
        ds = np.zeros(C)
        ds[t[n]] = -1 / s[n, t[n]]
        jacobian = np.diag(s[n]) - np.outer(s[n], s[n])
        dz[n] = jacobian @ ds
    return dout * dz / N
