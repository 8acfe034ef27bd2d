"""Max-pooling as a Function that keeps torch's indices."""
import torch
from torch.nn import functional as F


class MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernel_size, stride, padding):
        y, where = F.max_pool2d(x, kernel_size, stride, padding, return_indices=True)
        ctx.save_for_backward(where)
        ctx.shape = x.shape
        return y

    @staticmethod
    def backward(ctx, grad_output):
        (where,) = ctx.saved_tensors
        flat = grad_output.new_zeros(*ctx.shape[:2], ctx.shape[2] * ctx.shape[3])
        flat.scatter_add_(2, where.flatten(2), grad_output.flatten(2))
        return flat.view(ctx.shape), None, None, None
