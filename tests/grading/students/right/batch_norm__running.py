"""Batch normalisation as a Function with the arguments of torch's."""

import torch


class BN(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gamma, beta, running_mean, running_var, eps=1e-5, momentum=0.1):
        m = x.mean((0, 2, 3))
        v = x.var((0, 2, 3), unbiased=False)
        xh = (x - m[:, None, None]) / (v + eps).sqrt()[:, None, None]
        ctx.save_for_backward(xh, gamma, (v + eps).rsqrt())
        return gamma[:, None, None] * xh + beta[:, None, None]

    @staticmethod
    def backward(ctx, g):
        xh, gamma, r = ctx.saved_tensors
        dg = (g * xh).sum((0, 2, 3))
        db = g.sum((0, 2, 3))
        M = g.numel() / g.shape[1]
        dx = (gamma * r)[:, None, None] * (g - db[:, None, None] / M - xh * dg[:, None, None] / M)
        return dx, dg, db, None, None, None, None
