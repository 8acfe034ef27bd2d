# bias summed over the wrong axes
"""A Function whose bias gradient keeps the positions."""
import torch


class Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, b, stride=1, padding=0):
        ctx.save_for_backward(x, w)
        ctx.geometry = stride, padding
        return torch.conv2d(x, w, b, stride, padding)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        dx = torch.nn.grad.conv2d_input(x.shape, w, g, *ctx.geometry)
        dw = torch.nn.grad.conv2d_weight(x, w.shape, g, *ctx.geometry)
        return dx, dw, g.sum(1).sum(0).sum() * torch.ones(w.shape[0]), None, None
