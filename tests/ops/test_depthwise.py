"""Depthwise convolution by its CPU kernels: every size of window, both layouts, the same bits everywhere."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cnnexp
from cnnexp import ops
from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.kernels.cpu import depthwise as cpu
from cnnexp.nn import layer_algorithms
from cnnexp.ops.conv2d import direct
from cnnexp.ops.layout import is_channels_last
from cnnexp.tuning.measure import QUICK, measure

LAYOUTS = [torch.contiguous_format, torch.channels_last]
KERNELS = [*[(k, k) for k in range(1, 8)], (2, 4), (6, 3), (1, 7), (3, 1), (9, 8)]


def _made(
    shape: tuple[int, ...], kernel: tuple[int, int], dtype: torch.dtype, layout: torch.memory_format
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    channels = shape[1]
    shapes = shape, (channels, 1, *kernel), (channels,)
    image, weight, bias = (torch.randn(s, generator=generator).to(dtype) for s in shapes)
    made = image.contiguous(memory_format=layout), weight, bias
    return [each.requires_grad_() for each in made]


def _results(
    tensors: list[Tensor], window: dict[str, Any], algorithm: str | None, grad: Tensor | None = None
) -> list[Tensor]:
    """The output and all gradients, of ``grad`` or of one that lies as the output."""
    image, weight, bias = tensors
    window = window | {"groups": image.size(1)}
    if algorithm is None:
        output = F.conv2d(image, weight, bias, **window)
    else:
        output = ops.conv2d(image, weight, bias, **window, algorithm=algorithm)
    if grad is None:
        grad = torch.linspace(-1, 1, output.numel()).to(output.dtype).view(output.shape)
    return [output.detach(), *torch.autograd.grad(output, tensors, grad.to(output.dtype))]


def _windows() -> Iterator[Any]:
    strides = [(1, 1), (2, 2), (3, 3), (1, 2), (2, 1), (5, 4)]
    images = [(1, 1), (2, 2), (3, 5), (4, 4), (7, 7), (9, 8), (16, 17)]
    draw = random.Random(4)
    for kernel, stride in itertools.product(KERNELS, strides):
        size = draw.choice(images)
        paddings = [(0, 0), (1, 1), (kernel[0] // 2, kernel[1] // 2), (kernel[0], kernel[1] + 1)]
        padding = draw.choice(
            [
                p
                for p in paddings
                if size[0] + 2 * p[0] >= kernel[0] and size[1] + 2 * p[1] >= kernel[1]
            ]
        )
        yield kernel, stride, padding, size


@pytest.mark.parametrize(("kernel", "stride", "padding", "size"), [*_windows()])
def test_every_window(kernel: Any, stride: Any, padding: Any, size: Any) -> None:
    channels = random.Random(f"{kernel} {stride}").choice([1, 5, 16, 21, 35])
    window = {"stride": stride, "padding": padding}
    for layout in LAYOUTS:
        tensors = _made((3, channels, *size), kernel, torch.float64, layout)
        found, expected = _results(tensors, window, "depthwise"), _results(tensors, window, None)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [3, 16, 24, 40])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)])
def test_the_error_is_at_most_twice_that_of_torch(
    kernel: int, stride: int, channels: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    tensors = _made((4, channels, 11, 10), (kernel, kernel), dtype, layout)
    window = {"stride": stride, "padding": kernel // 2}
    exact = [each.detach().double().requires_grad_() for each in tensors]
    expected = _results(exact, window, None)
    found, theirs = (_results(tensors, window, name) for name in ("depthwise", None))
    for mine, other, right in zip(found, theirs, expected, strict=True):
        assert mine.dtype == dtype
        errors = [(each.double() - right).square().mean().sqrt() for each in (mine, other)]
        scale = right.square().mean().sqrt()
        assert errors[0] <= 2 * errors[1] + 0.1 * torch.finfo(dtype).eps * scale


def test_results_lie_as_torchs_and_inputs_may_lie_anyhow() -> None:
    whole = torch.randn(2, 40, 12, 11)
    window = {"stride": 1, "padding": 1}
    images = {
        "plain": whole[:, :20].clone(),
        "last": whole[:, :20].clone(memory_format=torch.channels_last),
        "cut": whole[:, 3:23],
        "every other": whole[:, ::2],
        "columns": whole[:, :20, :, ::2],
        "last and cut": whole.clone(memory_format=torch.channels_last)[:, 5:25],
        "turned": whole[:, :20].transpose(2, 3),
        "one for all": torch.randn(1, 20, 12, 11).expand(3, -1, -1, -1),
    }
    for image in images.values():
        tensors = [image.detach().requires_grad_(), torch.randn(20, 1, 3, 3), torch.randn(20)]
        tensors = [each.requires_grad_() for each in tensors]
        for grad in (None, torch.tensor(0.5).expand(image.shape)):
            found, expected = (
                _results(tensors, window, name, grad) for name in ("depthwise", "native")
            )
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert is_channels_last(found[0]) == is_channels_last(image)


def test_an_empty_batch_and_single_numbers() -> None:
    for shape in ((0, 20, 5, 4), (2, 20, 1, 1), (1, 1, 1, 1)):
        tensors = _made(shape, (3, 3), torch.float32, torch.contiguous_format)
        found, expected = (_results(tensors, {"padding": 1}, n) for n in ("depthwise", "native"))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_gradients_of_each_sample_add_up_to_that_of_the_batch(layout: torch.memory_format) -> None:
    image, weight, _ = _made((19, 21, 7, 6), (3, 3), torch.float32, layout)
    geometry = Conv2dGeometry((7, 6), (3, 3), (2, 2), (1, 1), groups=21)
    grad = torch.randn(19, 21, *geometry.output_size).contiguous(memory_format=layout)
    with torch.no_grad():
        grad_weight = ops.get_algorithm("conv2d", "depthwise").grad_weight
        assert grad_weight is not None
        found = grad_weight(grad, image, geometry, per_sample=True)
        expected = direct.grad_weight(grad, image, geometry, per_sample=True)
        whole = grad_weight(grad, image, geometry)
    assert found.shape == (19, *weight.shape)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.sum(0), whole, rtol=1e-4, atol=1e-4)


REFUSED = {
    "two kernels a channel": ((4, 1, 3, 3), {"groups": 2}, torch.float32),
    "one for two channels": ((1, 2, 3, 3), {}, torch.float32),
    "no groups": ((2, 2, 3, 3), {}, torch.float32),
    "dilation": ((2, 1, 3, 3), {"groups": 2, "dilation": 2}, torch.float32),
    "half precision": ((2, 1, 3, 3), {"groups": 2}, torch.float16),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_convolutions_are_computed_as_by_direct(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, options, dtype = REFUSED[case]
    image, weight = torch.randn(2, 2, 7, 6).to(dtype), torch.randn(shape).to(dtype)
    for name in ("forward", "grad_input", "grad_weight"):
        monkeypatch.setattr(cpu, name, lambda *_: pytest.fail("a kernel was called"))
    for tensor in (image, weight):
        tensor.requires_grad_()
    results = []
    for name in ("depthwise", "direct"):
        output = ops.conv2d(image, weight, **options, algorithm=name)
        results.append([output, *torch.autograd.grad(output.float().sum(), (image, weight))])
    torch.testing.assert_close(*results, rtol=0, atol=0)
    times = measure("conv2d", (image, weight), options, (True, True), QUICK)
    assert "depthwise" not in times
    assert "native" in times


def test_a_measurement_of_a_depthwise_convolution_has_it() -> None:
    tensors = _made((4, 32, 8, 8), (5, 5), torch.float32, torch.contiguous_format)
    times = measure("conv2d", tuple(tensors), {"groups": 32}, (True, True, True), QUICK)
    assert {"depthwise", "native"} <= set(times)


@pytest.mark.parametrize("way", ["fused", "depthwise"])
def test_replace_layers_gives_it_to_the_convolutions_that_have_kernels(way: str) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 16, 3, groups=8),
        nn.Conv2d(16, 16, 3, groups=16, dilation=2),
        nn.Conv2d(16, 16, 1, groups=4),
    )
    cnnexp.replace_layers(network, way)
    assert list(layer_algorithms(network).values()) == [
        "direct",
        "depthwise",
        "direct",
        "direct",
        "direct",
    ]
    image = torch.randn(2, 3, 12, 12)
    ours = network(image)
    torch.testing.assert_close(ours, cnnexp.replace_layers(network, "native")(image))


def test_under_autocast_it_computes_in_bfloat16() -> None:
    image, weight, bias = _made((2, 24, 8, 8), (3, 3), torch.float32, torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        output = ops.conv2d(image, weight, bias, padding=1, groups=24, algorithm="depthwise")
    assert output.dtype == torch.bfloat16
    grads = torch.autograd.grad(output.float().square().sum(), (image, weight, bias))
    assert {each.dtype for each in grads} == {torch.float32}
    exact = F.conv2d(image, weight, bias, padding=1, groups=24)
    torch.testing.assert_close(output.float(), exact, rtol=0.05, atol=0.05)


def _fingerprint() -> str:
    """Of outputs and gradients of both layouts and all dtypes."""
    made = hashlib.sha256()
    for dtype, layout in itertools.product((torch.float32, torch.bfloat16, torch.float64), LAYOUTS):
        for kernel, stride, size in ((3, 1, 16), (3, 2, 9), (5, 1, 8), (7, 1, 5), (4, 2, 6)):
            tensors = _made((21, 40, size, size + 1), (kernel, kernel), dtype, layout)
            window = {"stride": stride, "padding": kernel // 2}
            for each in _results(tensors, window, "depthwise")[:3]:
                made.update(each.contiguous().double().numpy().tobytes())
    return made.hexdigest()


@pytest.mark.parametrize(
    "setting",
    [
        {"NUMBA_NUM_THREADS": "1"},
        pytest.param({"NUMBA_CPU_NAME": "haswell"}, marks=pytest.mark.long),  # compiles all kernels
    ],
    ids=str,
)
def test_bits_depend_neither_on_threads_nor_on_the_instruction_set(
    setting: dict[str, str], tmp_path: Any
) -> None:
    """The bias's gradient is torch's own sum."""
    if "NUMBA_CPU_NAME" in setting:
        if not torch.cpu.get_capabilities().get("avx2"):
            pytest.skip("a processor without AVX2")
        setting = setting | {"NUMBA_CACHE_DIR": str(tmp_path)}
    code = "from tests.ops.test_depthwise import _fingerprint; print(_fingerprint())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **setting},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == _fingerprint()
