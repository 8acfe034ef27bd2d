"""ReLU whose gradient at 0 is one half, and that comes in a tuple."""
import numpy as np


def relu_forward(x):
    return np.maximum(0, x), x


def relu_backward(dout, cache):
    return (dout * np.heaviside(cache, 0.5),)
