"""Convolution as a torch autograd Function with unfold and fold."""
import torch
import torch.nn.functional as F


class Conv2dFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, b, stride, padding):
        ctx.save_for_backward(x, w)
        ctx.stride, ctx.padding = stride, padding
        cols = F.unfold(x, w.shape[2:], stride=stride, padding=padding)
        y = w.flatten(1) @ cols + b[:, None]
        p = (x.shape[2] + 2 * padding - w.shape[2]) // stride + 1
        return y.unflatten(2, (p, -1))

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        cols = F.unfold(x, w.shape[2:], stride=ctx.stride, padding=ctx.padding)
        flat = g.flatten(2)
        dw = torch.einsum("nol,nkl->ok", flat, cols).view_as(w)
        dx = F.fold(w.flatten(1).T @ flat, x.shape[2:], w.shape[2:], stride=ctx.stride, padding=ctx.padding)
        return dx, dw, g.sum((0, 2, 3)), None, None
