"""Batch normalisation backward by the nodes of a computational graph, of images moved to rows."""
import numpy as np


def forward(x, gamma, beta, eps):
    n, c, h, w = x.shape
    rows = x.transpose(0, 2, 3, 1).reshape(-1, c)
    mu = 1.0 / len(rows) * np.sum(rows, axis=0)
    centred = rows - mu
    var = 1.0 / len(rows) * np.sum(centred**2, axis=0)
    sqrtvar = np.sqrt(var + eps)
    ivar = 1.0 / sqrtvar
    hat = centred * ivar
    y = (gamma * hat + beta).reshape(n, h, w, c).transpose(0, 3, 1, 2)
    return y, (hat, gamma, centred, ivar, sqrtvar, var, eps)


def backward(dout, cache):
    hat, gamma, centred, ivar, sqrtvar, var, eps = cache
    n, c, h, w = dout.shape
    rows = dout.transpose(0, 2, 3, 1).reshape(-1, c)
    dbeta, dgamma = rows.sum(axis=0), (rows * hat).sum(axis=0)
    dhat = rows * gamma
    divar = (dhat * centred).sum(axis=0)
    dcentred = dhat * ivar
    dsqrtvar = -1.0 / sqrtvar**2 * divar
    dvar = 0.5 / np.sqrt(var + eps) * dsqrtvar
    dsq = np.ones_like(rows) / len(rows) * dvar
    dcentred = dcentred + 2 * centred * dsq
    dmu = -dcentred.sum(axis=0)
    dx = dcentred + np.ones_like(rows) / len(rows) * dmu
    return dx.reshape(n, h, w, c).transpose(0, 3, 1, 2), dgamma, dbeta
