"""torch's own convolution and autograd: the baseline that ours is compared with."""

from __future__ import annotations

from torch.nn import functional as F

from cnnexp.ops.registry import Algorithm, register

register(
    Algorithm(
        op="conv2d",
        name="native",
        function=F.conv2d,
        summary="torch.nn.functional.conv2d and torch's autograd, the baseline",
        dtypes=(),
    )
)
