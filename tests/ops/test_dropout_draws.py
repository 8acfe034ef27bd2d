"""Dropout drops what torch drops: for the same seed, in any layout, in transforms as well."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp import ops

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "permuted": lambda x: x.permute(2, 0, 3, 1),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "sliced": lambda x: x[:, ::2],
    "expanded": lambda x: x[:, :, :1].expand(-1, -1, 6, -1),
}
HABITS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "plain": lambda call, x: call(x),
    "grad": lambda call, x: torch.func.grad(lambda each: call(each).sum())(x),
    "vjp": lambda call, x: torch.func.vjp(call, x)[0],
    "vmap": lambda call, x: torch.vmap(call, randomness="different")(x),
    "vmap of all alike": lambda call, x: torch.vmap(call, randomness="same")(x),
}


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_elements_as_torch(layout: str, habit: str) -> None:
    input = LAYOUTS[layout](torch.rand(3, 4, 5, 6, dtype=torch.float64) + 1)

    def made(dropout: Callable[..., Tensor]) -> Tensor:
        torch.manual_seed(5)
        return HABITS[habit](lambda x: dropout(x, 0.3, True), input)

    torch.testing.assert_close(made(ops.dropout), made(F.dropout))
