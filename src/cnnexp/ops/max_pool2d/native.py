"""torch's own max-pooling and autograd: the baseline that ours is compared with."""

from __future__ import annotations

from torch.nn import functional as F

from cnnexp.ops.registry import Algorithm, register

register(
    Algorithm(
        op="max_pool2d",
        name="native",
        function=F.max_pool2d,
        summary="torch.nn.functional.max_pool2d and torch's autograd, the baseline",
        dtypes=(),
    )
)
