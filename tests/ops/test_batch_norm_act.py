"""The fused batch normalisation: against torch in every precision, layout and size, and its own promises."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from cnnexp import ops
from cnnexp.ops.batch_norm_act import ACTIVATIONS

SHAPES = [
    (3, 5, 7, 3),  # odd sizes, and fewer channels than a vector has lanes
    (2, 24, 1, 1),  # one pixel
    (16, 1, 3, 3),  # one channel
    (6, 33),
    (2, 7, 70, 70),  # several planes, a row of which is no multiple of the lanes
    (5, 24, 57, 57),  # more than one part, and the last is shorter
]


def _call(
    image: Tensor, algorithm: str, activation: str, training: bool, affine: bool = True
) -> list[Tensor]:
    """Output, gradients and running statistics; parameters in float32 at least."""
    generator = torch.Generator().manual_seed(1)
    dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
    draw = [torch.rand(image.size(1), generator=generator, dtype=torch.float64) for _ in range(4)]
    weight, bias, mean, var = (
        d.to(dtype) + at for d, at in zip(draw, (0.5, -0.5, 0.3, 0.5), strict=True)
    )
    leaves = [image.detach().requires_grad_()]
    if affine:
        leaves += [weight.requires_grad_(), bias.requires_grad_()]
    arguments: list[Any] = [mean, var, *(leaves[1:] or [None, None]), training, 0.3, 1e-5]
    output = ops.get_algorithm("batch_norm_act", algorithm)(leaves[0], *arguments, activation)
    grad = torch.randn(image.shape, generator=generator, dtype=torch.float64).to(image.dtype)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad), mean, var]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_at_most_twice_torchs_own_error(activation: str, dtype: torch.dtype) -> None:
    """In the median of all situations: one rounding decides on which side of a kink a value falls."""
    generator = torch.Generator().manual_seed(0)
    few = 20 * torch.finfo(torch.float32 if dtype == torch.bfloat16 else dtype).eps
    ratios: list[list[float]] = [[] for _ in range(6)]
    for shape, training, last in itertools.product(SHAPES, (True, False), (True, False)):
        image = (torch.randn(shape, generator=generator) * 2 + 1).to(dtype)
        if last and len(shape) == 4:
            image = image.contiguous(memory_format=torch.channels_last)
        exact = _call(image.double(), "native", activation, training)
        if dtype == torch.float64:
            exact = _call(image, "direct", activation, training)
        found = _call(image, "fused", activation, training)
        theirs = _call(image, "native", activation, training)
        assert found[0].stride() == found[1].stride() == image.stride()
        for index, (mine, other, true) in enumerate(zip(found, theirs, exact, strict=True)):
            assert mine.dtype == other.dtype
            errors = [(each.double() - true).abs().mean().item() for each in (mine, other)]
            allowed = 2 * errors[1] + few * max(1.0, true.abs().max().item())
            ratios[index].append(errors[0] / allowed)
    assert all(statistics.median(each) <= 1 for each in ratios), ratios


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("shift", [0.0, 1e3, -1e6])
def test_a_mean_far_from_zero_does_not_spoil_the_variance(shift: float, last: bool) -> None:
    image = torch.randn(8, 3, 40, 40, generator=torch.Generator().manual_seed(0)) + shift
    if last:
        image = image.contiguous(memory_format=torch.channels_last)
    var = torch.zeros(3)
    ops.batch_norm_act(image, torch.zeros(3), var, training=True, momentum=1.0, activation="none")
    # shift itself rounds the image, and so the exact variance is that of the rounded one
    torch.testing.assert_close(var, image.double().var((0, 2, 3)).float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("algorithm", ["fused", "direct"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_and_infinity_pass_as_torch_has_them(algorithm: str, activation: str) -> None:
    image = torch.tensor([[1.0], [float("nan")], [2.0], [-3.0]], requires_grad=True)
    mean, var = torch.zeros(1), torch.ones(1)

    def results(name: str) -> tuple[Tensor, Tensor]:
        output = ops.batch_norm_act(image, mean, var, activation=activation, algorithm=name)
        return output, torch.autograd.grad(output.sum(), image)[0]

    expected = results("native")
    torch.testing.assert_close(results(algorithm), expected, equal_nan=True)


def test_by_hand() -> None:
    """x̂ = (−1, 0, 1)·√1.5, of which 2·x̂ − 1 leaves the last."""
    image = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    root = 1.5**0.5
    for algorithm in ops.algorithm_names("batch_norm_act"):
        output = ops.batch_norm_act(
            image, None, None, weight, bias, True, 0.1, 1e-12, algorithm=algorithm
        )
        grads = torch.autograd.grad(output.sum(), (image, weight, bias))
        torch.testing.assert_close(output, torch.tensor([[0], [0], [2 * root - 1]]).double())
        # s·(h − 1/3 − x̂·√1.5/3) with s = 2·√1.5 and h = (0, 0, 1)
        of_image = [
            2 * root * (h - 1 / 3 - x * root * root / 3) for h, x in ((0, -1), (0, 0), (1, 1))
        ]
        torch.testing.assert_close(grads[0], torch.tensor(of_image).double().view(3, 1))
        torch.testing.assert_close(grads[1], torch.tensor([root]).double())
        torch.testing.assert_close(grads[2], torch.tensor([1.0]).double())


def test_an_unknown_activation_is_refused_with_the_known_ones() -> None:
    for algorithm in ops.algorithm_names("batch_norm_act"):
        with pytest.raises(ValueError, match="unknown activation 'tanh'; known: none, relu, relu6"):
            ops.batch_norm_act(
                torch.ones(2, 1), None, None, training=True, activation="tanh", algorithm=algorithm
            )


def test_the_input_alone_is_kept() -> None:
    image = torch.randn(4, 8, 6, 6, requires_grad=True)
    weight, bias = torch.ones(8, requires_grad=True), torch.zeros(8, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.batch_norm_act(image, None, None, weight, bias, training=True)
    large = [tensor for tensor in kept if tensor.numel() > 8]
    assert [tensor.data_ptr() for tensor in large] == [image.data_ptr()]


def test_autocast_leaves_the_dtype_of_the_input() -> None:
    image = torch.randn(4, 8, 6, 6, dtype=torch.bfloat16, requires_grad=True)
    weight, bias = torch.ones(8, requires_grad=True), torch.zeros(8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = ops.batch_norm_act(image, None, None, weight, bias, training=True)
    assert output.dtype == torch.bfloat16
    grads: Any = torch.autograd.grad(output.sum(), (image, weight, bias))
    assert [grad.dtype for grad in grads] == [torch.bfloat16, torch.float32, torch.float32]


_BITS = """
import hashlib, torch
from cnnexp import ops
torch.set_num_threads({threads})
generator = torch.Generator().manual_seed(0)
digest = hashlib.sha256()
for last in (True, False):
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(9, 24, 41, 37, generator=generator).to(dtype)
        if last:
            x = x.contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        w, b = torch.rand(24, generator=generator).requires_grad_(), torch.zeros(24, requires_grad=True)
        y = ops.batch_norm_act(x, None, None, w, b, True)
        for t in (y.detach(), *torch.autograd.grad(y.square().sum(), (x, w, b))):
            digest.update(t.float().contiguous().numpy().tobytes())
print(digest.hexdigest())
"""


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    def bits(threads: int) -> str:
        environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads), "OMP_NUM_THREADS": "1"}
        code = _BITS.format(threads=1)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    assert bits(1) == bits(2)
