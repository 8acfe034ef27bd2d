"""Convolution as products of spectra: for large kernels.

On a padded image of S = S_h × S_w places, with the kernel's elements and the output's set out on
places of the same grid, w at (u·d_h, v·d_w) and g = grad_output at (p·s_h, q·s_w), zeros elsewhere,
the three sums of ``direct`` are circular correlations and a circular convolution, in which nothing
wraps around since (P − 1)·s + (K − 1)·d < S. With F the discrete Fourier transform over S and
* the complex conjugate, they are products at each of the frequencies f:

    F y [n, o, f]    = Σ_c F x[n, c, f] · F w[o, c, f]*        y read at (p·s_h, q·s_w)
    F ∂L/∂x[n, c, f] = Σ_o F g[n, o, f] · F w[o, c, f]
    F ∂L/∂w[o, c, f] = Σ_n F x[n, c, f] · F g[n, o, f]*        read at (u·d_h, v·d_w)

N·C_out·C_in·S products whatever the size of the kernel, and S·log S for each transform. A number
that is not finite spoils all that its image and channel have a part in. Half precision is computed in
float32.

Source: Mathieu, Henaff & LeCun, "Fast Training of Convolutional Networks through FFTs" (2014).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.windows import cut
from cnnexp.ops.conv2d.function import register_conv2d
from cnnexp.ops.precision import widened


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry) -> Tensor:
    """Y from x: (N, C_in, H, W), w: (C_out, C_in/groups, K_h, K_w), b: (C_out,) → (N, C_out, P, Q)."""
    g = geometry
    spectrum = _image_spectrum(input, g) @ _adjoint(_kernel_spectrum(weight, g))
    output = next(g.pieces(_from_spectrum(spectrum, g)))
    return (output if bias is None else output + bias[:, None, None]).to(input.dtype)


def grad_input(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, C_out, P, Q) and w → (N, C_in, H, W)."""
    g = geometry
    grid = _from_spectrum(_output_spectrum(grad_output, g) @ _kernel_spectrum(weight, g), g)
    (p_h, p_w), (height, width) = g.padding, g.input_size
    image = cut(grid, slice(p_h, p_h + height), slice(p_w, p_w + width))
    return image.to(grad_output.dtype)


def grad_weight(grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂w from ∂L/∂y: (N, C_out, P, Q) and x → (C_out, C_in/groups, K_h, K_w)."""
    g = geometry
    x, grad = _image_spectrum(input, g), _output_spectrum(grad_output, g)
    return _weight(_adjoint(grad) @ x, g).to(grad_output.dtype)


def _fast(size: int) -> int:
    """The next size without a prime factor above 5, for which transforms are fast."""
    from scipy.fft import next_fast_len  # it takes a while to import

    return next_fast_len(size, real=True)  # pyright: ignore[reportReturnType]


def _grid(g: Conv2dGeometry) -> tuple[int, int]:
    """(S_h, S_w). As it is under torch.compile: prime factors would tie a graph to one size."""
    height, width = g.padded_size()
    if torch.compiler.is_compiling():
        return height, width
    return _fast(height), _fast(width)


def _set_out(values: Tensor, step: tuple[int, int]) -> Tensor:
    """``values`` with step − 1 zeros between neighbours: (…, A, B) → (…, (A−1)·s_h+1, (B−1)·s_w+1)."""
    if step == (1, 1):
        return values
    (a, b), (s_h, s_w) = values.shape[-2:], step
    spread = F.pad(values[..., :, None, :, None], (0, s_w - 1, 0, 0, 0, s_h - 1))
    spread = spread.reshape(*values.shape[:-2], a * s_h, b * s_w)
    return cut(spread, slice(0, (a - 1) * s_h + 1), slice(0, (b - 1) * s_w + 1))


def _read(grid: Tensor, count: tuple[int, int], step: tuple[int, int]) -> Tensor:
    """The numbers at the places to which :func:`_set_out` moves them."""
    (a, b), (s_h, s_w) = count, step
    return cut(grid, slice(0, (a - 1) * s_h + 1, s_h), slice(0, (b - 1) * s_w + 1, s_w))


def _spectrum(values: Tensor, geometry: Conv2dGeometry, split: int) -> Tensor:
    """(A, B, …) → (groups, f, A, B), of which the axis ``split`` is shared out among the groups."""
    height, width = _grid(geometry)
    wide, groups = widened(values), geometry.groups
    if wide.numel() == 0:  # of an empty batch, which the library's transforms refuse
        empty = wide.new_empty(*wide.shape[:2], height, width // 2 + 1)
        spectrum = torch.complex(empty, empty)
    else:
        spectrum = torch.fft.rfft2(wide, (height, width))
    if torch.compiler.is_compiling():
        # no size is asked: torch 2.11 fails on one that it takes for open and then finds given
        shared = spectrum.flatten(2).unflatten(split, (groups, -1))
    else:  # batched gradients (is_grads_batched) know no flatten
        a, b = spectrum.shape[:2]
        shares = (groups, a // groups, b) if split == 0 else (a, groups, b // groups)
        shared = spectrum.reshape(*shares, height * (width // 2 + 1))
    return shared.permute(0, 3, 1, 2) if split == 0 else shared.permute(1, 3, 0, 2)


def _image_spectrum(input: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """(N, C_in, H, W) → (groups, f, N, C_in/groups)."""
    p_h, p_w = geometry.padding
    return _spectrum(F.pad(input, (p_w, p_w, p_h, p_h)), geometry, 1)


def _output_spectrum(grad_output: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """(N, C_out, P, Q) → (groups, f, N, C_out/groups)."""
    return _spectrum(_set_out(grad_output, geometry.stride), geometry, 1)


def _kernel_spectrum(weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """(C_out, C_in/groups, K_h, K_w) → (groups, f, C_out/groups, C_in/groups)."""
    return _spectrum(_set_out(weight, geometry.dilation), geometry, 0)


def _adjoint(spectrum: Tensor) -> Tensor:
    return spectrum.transpose(-1, -2).conj()


def _from_spectrum(spectrum: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """(groups, f, N, C/groups) → (N, C, S_h, S_w)."""
    n, channels = spectrum.size(2), spectrum.size(0) * spectrum.size(3)
    return _inverse(spectrum.permute(2, 0, 3, 1).reshape(n, channels, spectrum.size(1)), geometry)


def _weight(spectrum: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """(groups, f, C_out/groups, C_in/groups) → (C_out, C_in/groups, K_h, K_w)."""
    c_out, channels = spectrum.size(0) * spectrum.size(2), spectrum.size(3)
    grid = _inverse(
        spectrum.permute(0, 2, 3, 1).reshape(c_out, channels, spectrum.size(1)), geometry
    )
    return _read(grid, geometry.kernel_size, geometry.dilation)


def _inverse(spectrum: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """(A, B, f) → (A, B, S_h, S_w)."""
    height, width = _grid(geometry)
    if spectrum.numel() == 0:
        return spectrum.real.new_zeros(*spectrum.shape[:2], height, width)
    shape = *spectrum.shape[:2], height, width // 2 + 1
    return torch.fft.irfft2(spectrum.reshape(shape), (height, width))


register_conv2d(
    "fft", forward, grad_input, grad_weight, summary="products of spectra; for large kernels"
)
