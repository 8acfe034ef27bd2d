# argmax of another image
"""The winner is found in the first image of the batch."""
import torch


def forward(x, kernel_size, stride, padding):
    return torch.nn.functional.max_pool2d(x, kernel_size, stride, padding)


def backward(grad_output, x, kernel_size, stride, padding):
    _, idx = torch.nn.functional.max_pool2d(x[0], kernel_size, stride, padding, return_indices=True)
    out = torch.zeros_like(x)
    for n in range(len(x)):
        out[n].flatten(1).scatter_add_(1, idx.flatten(1), grad_output[n].flatten(1))
    return out
