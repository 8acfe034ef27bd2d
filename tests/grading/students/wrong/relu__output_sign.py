# ReLU's mask
"""A Function that asks for the output's sign, which is never negative."""
import torch


class MyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input):
        out = torch.where(input > 0, input, torch.zeros_like(input))
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, grad_output):
        out = ctx.saved_tensors[0]
        grad = grad_output.clone()
        grad[out < 0] = 0
        return grad
