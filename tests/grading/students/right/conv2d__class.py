"""A class with attributes for parameters and gradients, as in «from scratch» tutorials."""
import numpy as np


class Conv2D:
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0):
        kh, kw = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        self.W = np.random.randn(out_channels, in_channels, kh, kw) * 0.1
        self.b = np.zeros(out_channels)
        self.stride, self.padding = stride, padding

    def forward(self, x):
        self.x = x
        p, s = self.padding, self.stride
        self.xp = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
        kh, kw = self.W.shape[2:]
        rows = (self.xp.shape[2] - kh) // s + 1
        cols = (self.xp.shape[3] - kw) // s + 1
        out = np.zeros((len(x), len(self.W), rows, cols))
        for i in range(rows):
            for j in range(cols):
                patch = self.xp[:, :, i * s : i * s + kh, j * s : j * s + kw]
                out[:, :, i, j] = np.tensordot(patch, self.W, axes=((1, 2, 3), (1, 2, 3))) + self.b
        return out

    def backward(self, dout):
        p, s = self.padding, self.stride
        kh, kw = self.W.shape[2:]
        self.dW = np.zeros_like(self.W)
        self.db = dout.sum((0, 2, 3))
        dxp = np.zeros_like(self.xp)
        for i in range(dout.shape[2]):
            for j in range(dout.shape[3]):
                patch = self.xp[:, :, i * s : i * s + kh, j * s : j * s + kw]
                self.dW += np.tensordot(dout[:, :, i, j], patch, axes=(0, 0))
                dxp[:, :, i * s : i * s + kh, j * s : j * s + kw] += np.tensordot(dout[:, :, i, j], self.W, axes=(1, 0))
        return dxp[:, :, p : p + self.x.shape[2], p : p + self.x.shape[3]]
