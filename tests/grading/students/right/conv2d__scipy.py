"""Convolution by scipy.signal; a stride leaves outputs out, and its gradient is spread again."""
import numpy as np
from scipy.signal import convolve2d, correlate2d


def forward(x, w, b, stride=1, padding=0):
    xp = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    planes = []
    for image in xp:
        maps = []
        for kernel, offset in zip(w, b):
            total = sum(correlate2d(channel, k, mode="valid") for channel, k in zip(image, kernel))
            maps.append(total[::stride, ::stride] + offset)
        planes.append(maps)
    return np.array(planes)


def backward(dy, x, w, b, stride=1, padding=0):
    xp = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    full_h, full_w = xp.shape[2] - w.shape[2] + 1, xp.shape[3] - w.shape[3] + 1
    spread = np.zeros((*dy.shape[:2], full_h, full_w))
    spread[:, :, ::stride, ::stride] = dy
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for n in range(x.shape[0]):
        for o in range(w.shape[0]):
            for c in range(w.shape[1]):
                dxp[n, c] += convolve2d(spread[n, o], w[o, c], mode="full")
                dw[o, c] += correlate2d(xp[n, c], spread[n, o], mode="valid")
    bottom, right = dxp.shape[2] - padding, dxp.shape[3] - padding
    return dxp[:, :, padding:bottom, padding:right], dw, dy.sum(axis=3).sum(axis=2).sum(axis=0)
