# bias summed over the wrong axes
"""The bias's gradient along the wrong axis."""
import numpy as np


def forward(x, w, b):
    return np.dot(x, w.T) + b


def backward(grad_output, x, w, b):
    return {"dx": np.dot(grad_output, w), "dw": np.dot(grad_output.T, x), "db": np.sum(grad_output, axis=1)}
