"""ReLU that writes into the gradient that it is given; right, if careless."""
import numpy as np


def forward(z):
    return np.where(z < 0, 0, z)


def backward(da, z):
    da[z < 0] = 0
    return da
