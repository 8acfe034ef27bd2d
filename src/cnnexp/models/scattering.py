"""The wavelet scattering transform: features of an image that nobody has to learn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnexp.models.wavelets import gaussian_rows, morlet_wavelets

__all__ = ["Scattering2d"]

_CHUNK = 64  # channels of images transformed at a time: what lies between fits into the cache


class Scattering2d(nn.Module):
    """The scattering transform of each channel of an image, up to order 2.

    Let x be a channel, reflected at its borders to H' × W' with H' = 2^J (⌊H / 2^J⌋ + 2), likewise W', and
    continued periodically. With the Morlet wavelets ψ_jθ of :func:`cnnexp.models.wavelets.morlet_wavelets`
    and Gaussians φ_j of width 0.8 · 2^(J−1−j) and sum 1, j1 < j2 < J:

        S0(n)            =  Σ_u x(u) φ_0(2^J n − u)
        U1[j1, θ1](m)    =  |Σ_u x(u) ψ_{j1 θ1}(2^j1 m − u)|
        S1[j1, θ1](n)    =  Σ_m U1[j1, θ1](m) φ_j1(2^(J−j1) n − m)
        U2[…, j2, θ2](m) =  |Σ_u U1[j1, θ1](u) ψ_{j2−j1, θ2}(2^(j2−j1) m − u)|
        S2[…, j2, θ2](n) =  Σ_m U2[…, j2, θ2](m) φ_j2(2^(J−j2) n − m)

    n runs over the ⌊H / 2^J⌋ × ⌊W / 2^J⌋ places that are not of the margin. A field of scale j lives on the
    grid of every 2^j-th pixel, in whose units the filters have the same formula.

    The transform is linear in the contrast of an image, orders 1 and 2 of a constant image are 0, and a
    shift by less than 2^J pixels changes little. It has no parameters; its filters are in no state
    dict. The result has no graph: gradients with respect to the images are not computed. No image's
    features depend on another image, to the last bit.

    Args:
        size: (H, W) of the images, or one number for both; at least 2^J + 1.
        scales: The number of scales, J ≥ 1.
        angles: The number of angles, L ≥ 1.
        device, dtype: Where the filters are, and float32 or float64, as in ``torch.nn``.

    Attributes:
        features: The number of features per channel, 1 + J L + L² J (J − 1) / 2: 81 with J = 2, L = 8.
        out_size: (⌊H / 2^J⌋, ⌊W / 2^J⌋).

    Raises:
        ValueError: A range is violated, or the images are too small.

    Source: Bruna & Mallat, "Invariant Scattering Convolution Networks" (2013); filters, margin and order
    of the features as in Andreux et al., "Kymatio: Scattering Transforms in Python" (2020). Theirs differ
    from these by less than 0.01 %, on coarser grids by 0.5 %, where they cut the spectrum of φ.

    Examples:
        >>> Scattering2d(28)(torch.zeros(2, 3, 28, 28)).shape
        torch.Size([2, 243, 7, 7])
    """

    # for cnnexp.nn.conversion: no backward is torch's here, as there is none
    differentiable = False

    def __init__(
        self,
        size: int | Sequence[int],
        scales: int = 2,
        angles: int = 8,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        if scales < 1 or angles < 1:
            raise ValueError(f"scales and angles must be at least 1, but got {scales} and {angles}")
        if min(height, width) <= 2**scales:
            raise ValueError(
                f"images of {height}×{width} are too small for {scales} scales ({2**scales + 1}×"
                f"{2**scales + 1} at least); use fewer scales"
            )
        self.size, self.scales, self.angles = (height, width), scales, angles
        self.features = 1 + scales * angles + angles**2 * scales * (scales - 1) // 2
        self.out_size = (height // 2**scales, width // 2**scales)
        padded = [2**scales * (length + 2) for length in self.out_size]
        margins = [whole - length for whole, length in zip(padded, self.size, strict=True)]
        self._padding = [
            side for margin in reversed(margins) for side in (margin // 2, margin - margin // 2)
        ]
        place = {
            "device": torch.get_default_device() if device is None else device,
            "dtype": torch.get_default_dtype() if dtype is None else dtype,
        }
        for grid in range(scales):
            h, w = (length // 2**grid for length in padded)
            smoothing = 0.8 * 2 ** (scales - 1 - grid)
            for name, length, count in (
                ("rows", h, self.out_size[0]),
                ("cols", w, self.out_size[1]),
            ):
                matrix = gaussian_rows(length, smoothing, 2 ** (scales - grid), count)
                self._keep(f"{name}_{grid}", matrix.to(**place))
            for scale in range(grid, scales):
                # the first field is x, on the grid of all pixels; a wavelet of U1 is of a coarser scale
                if grid == 0 or scale > grid:
                    wavelets = morlet_wavelets(h, w, scale - grid, angles)
                    self._keep(
                        f"wavelets_{grid}_{scale}", _folded(wavelets, scale - grid).to(**place)
                    )

    def _keep(self, name: str, filters: Tensor) -> None:
        self.register_buffer(name, filters, persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the features of ``images``.

        Args:
            images: (N, C, H, W).

        Returns:
            (N, C · features, ⌊H / 2^J⌋, ⌊W / 2^J⌋) without a graph: for each channel order 0, then order 1
            by (j1, θ1), then order 2 by (j1, θ1, j2, θ2). float64 for float64 images, else float32.

        Raises:
            ValueError: The images are of another size.
        """
        if images.ndim != 4 or images.shape[-2:] != self.size:
            raise ValueError(
                f"images must be (N, C, {self.size[0]}, {self.size[1]}), but got {tuple(images.shape)}"
            )
        with _no_autocast(images):
            x = images.to(torch.promote_types(images.dtype, torch.float32))
            x = F.pad(x, self._padding, mode="reflect").flatten(0, 1)
            features = self._in_chunks(x)
        return features.view(images.size(0), images.size(1) * self.features, *self.out_size)

    def _in_chunks(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # one graph for any number of images
            return self._transform(x)
        if x.size(0) == 0:  # which the Fourier transform does not take
            return x.new_empty(0, self.features, *self.out_size)
        # one alone is transformed twice: the products of matrices would round it otherwise than among others
        chunks = [chunk if len(chunk) > 1 else chunk.expand(2, -1, -1) for chunk in x.split(_CHUNK)]
        return torch.cat([self._transform(chunk) for chunk in chunks])[: len(x)]

    def _transform(self, x: Tensor) -> Tensor:
        """(B, H', W') → (B, features, ⌊H / 2^J⌋, ⌊W / 2^J⌋)."""
        field = x.unsqueeze(1)
        orders = [self._smooth(field, 0)]
        second: list[Tensor] = []
        spectrum = torch.fft.fft2(field)
        for j1 in range(self.scales):
            u1 = self._propagate(spectrum, 0, j1).squeeze(1)  # (B, L, h, w)
            orders.append(self._smooth(u1, j1))
            if j1 + 1 == self.scales:
                continue
            inner = torch.fft.fft2(u1)
            s2 = [
                self._smooth(self._propagate(inner, j1, j2), j2)
                for j2 in range(j1 + 1, self.scales)
            ]
            second.append(torch.cat(s2, 2).flatten(1, 2))  # each (B, L, L, ·, ·)
        return torch.cat([*orders, *second], 1)

    def _propagate(self, spectrum: Tensor, grid: int, scale: int) -> Tensor:
        """U ⋆ ψ of ``scale``, its modulus, on the grid of that scale.

        Every s-th value of a convolution has the spectrum whose s × s blocks are added up: the transform
        back is of the small size.

        Args:
            spectrum: (B, P, h, w) complex, the Fourier transforms of P fields on ``grid``.
            grid, scale: grid ≤ scale.

        Returns:
            (B, P, L, h / s, w / s) with s = 2^(scale − grid).
        """
        wavelets = self.get_buffer(f"wavelets_{grid}_{scale}")  # (L, s², 2hw / s²)
        s = 2 ** (scale - grid)
        h, w = (length // s for length in spectrum.shape[2:])
        blocks = torch.view_as_real(spectrum).unflatten(2, (s, h)).unflatten(4, (s, w))
        blocks = blocks.transpose(3, 4).flatten(2, 3).flatten(3).unsqueeze(2)
        product = blocks[:, :, :, 0] * wavelets[:, 0]  # (B, P, L, 2hw / s²)
        for block in range(1, s * s):
            product.addcmul_(blocks[:, :, :, block], wavelets[:, block])
        product = torch.view_as_complex(product.unflatten(3, (h, w, 2)))
        # from here on in place: each new tensor of this size costs time
        squares = torch.view_as_real(torch.fft.ifft2(product)).square_()
        return (squares[..., 0] + squares[..., 1]).sqrt_()

    def _smooth(self, field: Tensor, grid: int) -> Tensor:
        """Σ_m field(m) φ(2^(J − grid) n − m): (…, h, w) → (…, ⌊H / 2^J⌋, ⌊W / 2^J⌋)."""
        return self.get_buffer(f"rows_{grid}") @ field @ self.get_buffer(f"cols_{grid}").T

    def extra_repr(self) -> str:
        """The arguments, for ``print(network)``."""
        return f"size={self.size}, scales={self.scales}, angles={self.angles}"


def _folded(wavelets: Tensor, scale: int) -> Tensor:
    """The spectrum of ``wavelets`` (L, H, W), which is real, in s × s blocks, s = 2^scale.

    Returns:
        (L, s², 2HW / s²) float64, divided by s², each number twice: it is the factor of the real and of
        the imaginary part of what is filtered.
    """
    s, (h, w) = 2**scale, (length // 2**scale for length in wavelets.shape[1:])
    spectrum = torch.fft.fft2(wavelets).real / s**2
    blocks = spectrum.unflatten(1, (s, h)).unflatten(3, (s, w)).transpose(2, 3).flatten(1, 2)
    return blocks.flatten(2).repeat_interleave(2, -1)


def _no_autocast(images: Tensor) -> AbstractContextManager[object]:
    """A context in which products of float32 matrices are not rounded to less."""
    device = images.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
