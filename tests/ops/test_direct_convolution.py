"""∂L/∂w of ``direct`` as a sum of sums over parts of the batch, which GPUs compute."""

from __future__ import annotations

import pytest
import torch

from cnnexp.geometry.convolution import conv2d_geometry
from cnnexp.ops.conv2d import direct


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("parts", [1, 2, 3, 6])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_parts_of_a_batch_add_up(
    groups: int, parts: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    image = torch.randn(6, 4, 7, 6, dtype=torch.float64)
    weight = torch.randn(8, 4 // groups, 3, 2, dtype=torch.float64, requires_grad=True)
    geometry = conv2d_geometry(image, weight, None, stride, 1, 1, groups)
    output = direct.forward(image, weight, None, geometry)
    grad_output = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, weight, grad_output)
    monkeypatch.setattr(direct, "_parts", lambda _grad_output: parts)
    found = direct.grad_weight(grad_output, image, geometry)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


class _OnGPU(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True


@pytest.mark.parametrize(
    ("n", "size", "parts"),
    [(128, 28, 32), (128, 14, 8), (128, 7, 2), (128, 3, 1), (127, 28, 1), (6, 28, 1), (96, 28, 24)],
)
def test_each_sum_has_some_thousand_terms(n: int, size: int, parts: int) -> None:
    grad_output = torch.empty(n, 2, size, size, device="meta")
    assert direct._parts(grad_output) == 1
    assert direct._parts(grad_output.as_subclass(_OnGPU)) == parts
