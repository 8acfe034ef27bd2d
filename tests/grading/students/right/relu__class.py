"""ReLU as a class that keeps its mask."""

import numpy as np


class ReLU:
    def forward(self, inputs):
        self.mask = inputs > 0
        return inputs * self.mask

    def backward(self, grad):
        return grad * self.mask
