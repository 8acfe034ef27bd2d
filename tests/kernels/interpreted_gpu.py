"""The block's GPU kernels, run by Triton's interpreter: test_gpu runs this file in a process of its own.

Whether Triton interprets is settled when it is imported, so these tests cannot share a process with
those of the CPU kernels: TRITON_INTERPRET=1 python -W ignore -m pytest tests/kernels/interpreted_gpu.py
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from cnnexp import nn, ops
from cnnexp.kernels.cpu import conv_relu_pool as cpu
from cnnexp.kernels.gpu import conv_relu_pool as gpu
from cnnexp.ops.conv_relu_pool import fused

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1"
)

POOLS = {
    "2x2": ops.Pool(),
    "overlapping": ops.Pool("max", 3, 2, 1),
    "gaps": ops.Pool("max", 2, 3),
    "dilated": ops.Pool("max", 2, 1, 0, 2),
    "ceil": ops.Pool("max", 2, 2, 0, ceil_mode=True),
    "avg": ops.Pool("avg"),
    "avg, padded": ops.Pool("avg", (2, 3), 1, 1, count_include_pad=False),
}


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that were launched; whoever computes the block by anything else fails."""
    launched: list[str] = []
    launch = gpu._launch

    def counted(kernel: str, *arguments: object, **flags: bool) -> None:
        launched.append(kernel)
        launch(kernel, *arguments, **flags)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(gpu, "_launch", counted)
    monkeypatch.setattr(fused, "compose", lambda name: pytest.fail("computed by its parts"))
    for name in ("forward", "forward_few_channels", "pool_spread", "pool_gather"):
        monkeypatch.setattr(cpu, name, lambda *a: pytest.fail("computed by a CPU kernel"))
    return launched


def _block(dtype: torch.dtype = torch.float64, groups: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = (3, 4, 9, 7), (6, 4 // groups, 3, 3), (6,)
    made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return [t.to(dtype).requires_grad_() for t in made]


def _results(tensors: Sequence[Tensor], algorithm: str, **arguments: object) -> list[Tensor]:
    output = ops.conv_relu_pool(*tensors, padding=1, algorithm=algorithm, **arguments)  # pyright: ignore[reportArgumentType]
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output, *torch.autograd.grad(output, tensors, weights)]


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("groups", [1, 2])
def test_values_and_gradients_are_those_of_torch(
    pool: ops.Pool, groups: int, kernels: list[str]
) -> None:
    tensors = _block(groups=groups)
    ours = _results(tensors, "fused", pool=pool, groups=groups)
    assert kernels == ["pool_forward", "pool_spread"]
    torch.testing.assert_close(ours, _results(tensors, "native", pool=pool, groups=groups))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_every_dtype_has_kernels(dtype: torch.dtype, kind: str) -> None:
    """On integers, of which all these types hold the sums exactly: so who wins does not waver."""
    whole = [t.detach().round().clamp(-2, 2) for t in _block()]
    tensors = [t.to(dtype).requires_grad_() for t in whole]
    ours = _results(tensors, "fused", pool=ops.Pool(kind))
    exact = _results([t.requires_grad_() for t in whole], "native", pool=ops.Pool(kind))
    for result, expected in zip(ours, exact, strict=True):
        assert result.dtype == dtype
        error = (result.double() - expected).abs().max()
        assert error <= 2 * torch.finfo(dtype).eps * expected.abs().max()


def test_layout_of_the_input_does_not_matter() -> None:
    image, *parameters = _block()
    turned = image.detach().to(memory_format=torch.channels_last).requires_grad_()
    ours = _results([turned, *parameters], "fused")
    torch.testing.assert_close(ours, _results([image, *parameters], "fused"))


def test_first_of_equals_wins_and_nan_over_everything() -> None:
    image = torch.tensor([[1.0, 1, 2, 2, -1, -2], [1, 1, 2, torch.nan, -3, -1]])[None, None]
    image.requires_grad_()
    identity = torch.ones(1, 1, 1, 1)
    output = ops.conv_relu_pool(image, identity, None, algorithm="fused")
    torch.testing.assert_close(
        output.detach().flatten(), torch.tensor([1, torch.nan, 0]), equal_nan=True
    )
    (gradient,) = torch.autograd.grad(output, image, torch.ones_like(output))
    expected = torch.tensor([[1.0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]])
    assert torch.equal(gradient[0, 0], expected)


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_the_gradient_of_the_gradient(kind: str, kernels: list[str]) -> None:
    image, weight, bias = _block()  # few elements: finite differences call the block for each
    tensors = [
        t.detach().requires_grad_() for t in (image[:1, :1, :5, :4], weight[:2, :1], bias[:2])
    ]

    def block(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.conv_relu_pool(image, weight, bias, pool=ops.Pool(kind), algorithm="fused")

    assert torch.autograd.gradgradcheck(block, tensors, atol=1e-6)
    assert "pool_gather" in kernels


def test_per_sample_gradients_by_vmap() -> None:
    torch.manual_seed(0)
    layer = nn.ConvReLUPool(2, 3, 3, algorithm="fused").double()
    images = torch.randn(4, 2, 8, 8, dtype=torch.float64)
    parameters: dict[str, Tensor] = dict(layer.named_parameters())

    def loss(values: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(layer, values, (image[None],)).square().sum()

    mapped = vmap(grad(loss), in_dims=(None, 0))(parameters, images)
    for i, image in enumerate(images):
        one = torch.autograd.grad(loss(parameters, image), list(parameters.values()))
        for name, expected in zip(parameters, one, strict=True):
            torch.testing.assert_close(mapped[name][i], expected)


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_torch_compile_sees_one_graph(kind: str) -> None:
    tensors = _block(torch.float32)

    def block(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.conv_relu_pool(image, weight, bias, pool=ops.Pool(kind), algorithm="fused")

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    output, expected = compiled(*tensors), block(*tensors)
    assert torch.equal(output, expected)
    ours = torch.autograd.grad(output.square().sum(), tensors)
    for one, other in zip(ours, torch.autograd.grad(expected.square().sum(), tensors), strict=True):
        torch.testing.assert_close(one, other)


def test_an_empty_batch_launches_nothing() -> None:
    _, weight, bias = _block()
    image = torch.empty(0, 4, 9, 7, dtype=torch.float64, requires_grad=True)
    output = ops.conv_relu_pool(image, weight, bias, algorithm="fused")
    assert output.shape == (0, 6, 3, 2)
    gradients = torch.autograd.grad(output.sum(), [image, weight, bias])
    assert [g.shape for g in gradients] == [image.shape, weight.shape, bias.shape]
    assert not any(g.any() for g in gradients)
