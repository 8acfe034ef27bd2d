"""Max-pooling as a class."""

import numpy as np


class MaxPool2D:
    def __init__(self, pool_size=2, stride=2):
        self.k = pool_size
        self.s = stride

    def forward(self, x):
        self.x = x
        n, c, h, w = x.shape
        oh = (h - self.k) // self.s + 1
        ow = (w - self.k) // self.s + 1
        out = np.zeros((n, c, oh, ow))
        for i in range(oh):
            for j in range(ow):
                out[:, :, i, j] = x[
                    :, :, i * self.s : i * self.s + self.k, j * self.s : j * self.s + self.k
                ].max((2, 3))
        return out

    def backward(self, dout):
        dx = np.zeros_like(self.x)
        for n, c, i, j in np.ndindex(dout.shape):
            p = self.x[n, c, i * self.s : i * self.s + self.k, j * self.s : j * self.s + self.k]
            a, b = np.unravel_index(p.argmax(), p.shape)
            dx[n, c, i * self.s + a, j * self.s + b] += dout[n, c, i, j]
        return dx
