"""The block as a Module."""
import torch
from torch import nn


class ConvReluPool(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, stride, padding, pool_kernel, pool_stride):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        self.pool = nn.MaxPool2d(pool_kernel, pool_stride)

    def forward(self, x):
        return self.pool(torch.relu(self.conv(x)))
