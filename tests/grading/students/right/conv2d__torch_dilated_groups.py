"""torch functions with dilation and groups, in float32 inside."""
import torch


def forward(x, w, b, stride, padding, dilation, groups):
    return torch.conv2d(x.float(), w.float(), b.float(), stride, padding, dilation, groups)


def backward(grad_output, x, w, b, stride, padding, dilation, groups):
    g = grad_output.float()
    dx = torch.nn.grad.conv2d_input(x.shape, w.float(), g, stride, padding, dilation, groups)
    dw = torch.nn.grad.conv2d_weight(x.float(), w.shape, g, stride, padding, dilation, groups)
    return dx, dw, g.sum((0, 2, 3))
