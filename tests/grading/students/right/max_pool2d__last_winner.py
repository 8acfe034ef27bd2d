"""Max-pooling where the last of equal elements wins, with a dict of parameters."""
import numpy as np


def max_pool_forward(x, pool_param):
    h, w, s = pool_param["pool_height"], pool_param["pool_width"], pool_param["stride"]
    N, C, H, W = x.shape
    out = np.array([[[[x[n, c, i : i + h, j : j + w].max() for j in range(0, W - w + 1, s)] for i in range(0, H - h + 1, s)] for c in range(C)] for n in range(N)])
    return out, (x, pool_param)


def max_pool_backward(dout, cache):
    x, pool_param = cache
    h, w, s = pool_param["pool_height"], pool_param["pool_width"], pool_param["stride"]
    dx = np.zeros_like(x)
    for n, c, p, q in np.ndindex(dout.shape):
        window = x[n, c, p * s : p * s + h, q * s : q * s + w]
        last = window.size - 1 - window[::-1, ::-1].argmax()
        dx[n, c, p * s + last // w, q * s + last % w] += dout[n, c, p, q]
    return dx
