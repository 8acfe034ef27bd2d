"""What an optimiser asks of the training is what its class says, whoever wrote it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cnnexp import optim
from cnnexp.optim import asks_again, needs_whole_weights, one_group, steps_by_all_images


class _Own(torch.optim.SGD):
    full_batch = asks_again = one_group = whole_weights = True


TRAITS = {  # asks again, whole weights, one group, all images
    torch.optim.SGD: (False, False, False, False),
    torch.optim.LBFGS: (True, True, True, False),
    optim.LBFGS: (True, True, True, False),
    optim.SAM: (True, True, False, False),
    optim.MuonWithAdamW: (False, True, False, False),
    optim.GradientDescent: (False, False, False, True),
    _Own: (True, True, True, True),
}


@pytest.mark.parametrize("kind", TRAITS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_traits(kind: type[torch.optim.Optimizer]) -> None:
    made = kind([nn.Parameter(torch.zeros(2, 2))])  # pyright: ignore[reportCallIssue]
    found = asks_again(made), needs_whole_weights(made), one_group(kind), steps_by_all_images(kind)
    assert found == TRAITS[kind]
