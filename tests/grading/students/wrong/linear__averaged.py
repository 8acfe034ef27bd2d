# mean for sum
"""The gradients of the parameters are averaged over the batch, as if the loss were not."""
import numpy as np


def linear_forward(A, W, b):
    return A @ W.T + b, (A, W, b)


def linear_backward(dZ, cache):
    A, W, b = cache
    m = A.shape[0]
    return dZ @ W, dZ.T @ A / m, dZ.sum(axis=0) / m
