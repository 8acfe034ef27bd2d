"""Batch normalisation backward step by step through the graph of a (N, D) batch."""
import numpy as np


def batchnorm_forward(x, gamma, beta, bn_param):
    eps = bn_param["eps"]
    mu = np.mean(x, axis=0)
    xmu = x - mu
    var = np.mean(xmu**2, axis=0)
    std = np.sqrt(var + eps)
    xhat = xmu / std
    return gamma * xhat + beta, (xhat, xmu, std, gamma)


def batchnorm_backward(dout, cache):
    xhat, xmu, std, gamma = cache
    N = dout.shape[0]
    dbeta = np.sum(dout, axis=0)
    dgamma = np.sum(dout * xhat, axis=0)
    dxhat = dout * gamma
    dstd = np.sum(dxhat * xmu, axis=0) * -1.0 / std**2
    dvar = dstd * 0.5 / std
    dxmu = dxhat / std + 2 * xmu * dvar / N
    dx = dxmu - np.sum(dxmu, axis=0) / N
    return dx, dgamma, dbeta
