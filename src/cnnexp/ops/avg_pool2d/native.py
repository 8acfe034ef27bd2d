"""torch's own average-pooling and autograd: the baseline that ours is compared with."""

from __future__ import annotations

from torch.nn import functional as F

from cnnexp.ops.registry import Algorithm, register

register(
    Algorithm(
        op="avg_pool2d",
        name="native",
        function=F.avg_pool2d,
        summary="torch.nn.functional.avg_pool2d and torch's autograd, the baseline",
        dtypes=(),
    )
)
