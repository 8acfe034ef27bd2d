"""Batch normalisation of images by the short formula."""
import numpy as np


def forward(x, gamma, beta, eps=1e-5):
    axes = (0, 2, 3)
    mean = x.mean(axes, keepdims=True)
    r = 1 / np.sqrt(x.var(axes, keepdims=True) + eps)
    hat = (x - mean) * r
    g, b = gamma[None, :, None, None], beta[None, :, None, None]
    return g * hat + b, (hat, r, g)


def backward(grad_output, cache):
    hat, r, g = cache
    axes = (0, 2, 3)
    m = hat.size / hat.shape[1]
    dgamma = (grad_output * hat).sum(axes, keepdims=True)
    dbeta = grad_output.sum(axes, keepdims=True)
    dx = g * r / m * (m * grad_output - dbeta - hat * dgamma)
    return dx, dgamma.ravel(), dbeta.ravel()
