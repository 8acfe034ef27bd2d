"""The linear layer by loops."""
import numpy as np


def forward(x, weight, bias):
    y = np.zeros((x.shape[0], weight.shape[0]))
    for n in range(x.shape[0]):
        for o in range(weight.shape[0]):
            y[n, o] = bias[o]
            for k in range(x.shape[1]):
                y[n, o] += x[n, k] * weight[o, k]
    return y


def backward(grad_output, x, weight, bias):
    dx, dw, db = np.zeros_like(x), np.zeros_like(weight), np.zeros_like(bias)
    for n, o in np.ndindex(grad_output.shape):
        db[o] += grad_output[n, o]
        for k in range(x.shape[1]):
            dx[n, k] += grad_output[n, o] * weight[o, k]
            dw[o, k] += grad_output[n, o] * x[n, k]
    return [dx, dw, db]
