# stride forgotten
"""The gradient is not spread out where the stride is 2, so that it comes out too small."""
import torch
import torch.nn.functional as F


def forward(x, w, b, stride, padding):
    return F.conv2d(x, w, b, stride=stride, padding=padding)


def backward(grad_output, x, w, b, stride, padding):
    dx = F.conv_transpose2d(grad_output, w, padding=padding)
    dw = torch.nn.grad.conv2d_weight(x, w.shape, grad_output, stride, padding)
    return dx, dw, grad_output.sum(dim=(0, 2, 3))
