"""Batch normalisation as a class with running statistics."""

import numpy as np


class BatchNorm2d:
    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        self.gamma = np.ones(num_features)
        self.beta = np.zeros(num_features)
        self.eps = eps
        self.running_mean = np.zeros(num_features)

    def forward(self, x, training=True):
        m = x.mean((0, 2, 3), keepdims=True)
        v = x.var((0, 2, 3), keepdims=True)
        self.std = np.sqrt(v + self.eps)
        self.xh = (x - m) / self.std
        return self.gamma[None, :, None, None] * self.xh + self.beta[None, :, None, None]

    def backward(self, dout):
        self.dgamma = (dout * self.xh).sum((0, 2, 3))
        self.dbeta = dout.sum((0, 2, 3))
        d = dout * self.gamma[None, :, None, None]
        return (
            d
            - d.mean((0, 2, 3), keepdims=True)
            - self.xh * (d * self.xh).mean((0, 2, 3), keepdims=True)
        ) / self.std
