"""The positions of a sliding window: sizes, strides, paddings, and the checks on them.

All of ``cnnexp.ops`` uses these letters: N batch, C_in and C_out channels, H and W input height and
width, K_h and K_w kernel height and width, P and Q output height and width; s stride, p padding,
d dilation. Window (p, q) reads, at its offset (u, v), the input element
(p·s_h + u·d_h − p_h, q·s_w + v·d_w − p_w); elements off the image are padding.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

IntPair = int | Sequence[int]


def as_pair(value: IntPair, name: str) -> tuple[int, int]:
    """``value`` as (height, width): an int counts for both, as does a sequence of one.

    Raises:
        TypeError: ``value`` is neither an int nor a sequence of ints.
        RuntimeError: The sequence has more than two elements or none (as torch).
    """
    try:  # operator.index accepts NumPy's ints as well, but no floats
        numbers = [operator.index(v) for v in (value if isinstance(value, Sequence) else [value])]
    except TypeError:
        raise TypeError(f"{name} must be an int or a pair of ints, but got {value!r}") from None
    if len(numbers) not in (1, 2):
        raise RuntimeError(f"{name} must be an int or a pair of ints, but got {value!r}")
    return numbers[0], numbers[-1]


def check_image(shape: Sequence[int], op: str) -> None:
    """Raise ``RuntimeError``, as torch does, unless ``shape`` is (C, H, W) or (N, C, H, W)."""
    if len(shape) not in (3, 4):
        raise RuntimeError(
            f"Expected 3D (unbatched) or 4D (batched) input to {op}, "
            f"but got input of size: {list(shape)}"
        )


def cut(image: Tensor, rows: slice, columns: slice, height: int = -2) -> Tensor:
    """A view ``image[…, rows, columns]``; ``height`` is the dimension of the rows.

    Indexing would turn a slice over everything into an alias, for which batched gradients have no rule.
    """
    part = torch.ops.aten.slice.Tensor(image, height, rows.start, rows.stop, rows.step or 1)
    return torch.ops.aten.slice.Tensor(
        part, height + 1, columns.start, columns.stop, columns.step or 1
    )


@dataclass(frozen=True)
class WindowGeometry:
    """The positions of a window that slides over an image of ``input_size`` (H, W).

    Attributes:
        input_size: (H, W) of the image.
        kernel_size: (K_h, K_w).
        stride: (s_h, s_w), at least 1.
        padding: (p_h, p_w) on both sides, at least 0.
        dilation: (d_h, d_w), at least 1.
        ceil_mode: Whether the last window may extend beyond the far edge, as in torch's pooling.
        output_size: The number of window positions in each direction, (P, Q).

    Raises:
        RuntimeError: A value is out of range or the window does not fit into the padded image.
    """

    input_size: tuple[int, int]
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False
    # each kernel asks for it, at each call
    output_size: tuple[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, least in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
            value = getattr(self, name)
            if min(value) < least:
                raise RuntimeError(f"{name} must be at least {least}, but got {value}")
        object.__setattr__(self, "output_size", (self._positions(0), self._positions(1)))
        if min(self.output_size) < 1:
            padded = tuple(n + 2 * p for n, p in zip(self.input_size, self.padding, strict=True))
            raise RuntimeError(
                f"the window {self.extent} (kernel_size {self.kernel_size}, dilation "
                f"{self.dilation}) does not fit into the padded input {padded}"
            )

    @property
    def extent(self) -> tuple[int, int]:
        """The (height, width) that one dilated window spans: d·(K − 1) + 1."""
        (k_h, k_w), (d_h, d_w) = self.kernel_size, self.dilation
        return d_h * (k_h - 1) + 1, d_w * (k_w - 1) + 1

    def _positions(self, axis: int) -> int:
        size, stride, padding = self.input_size[axis], self.stride[axis], self.padding[axis]
        room = size + 2 * padding - self.extent[axis]
        positions = (room + (stride - 1 if self.ceil_mode else 0)) // stride + 1
        # A window that would start in the far padding is left out (torch, pooling_output_shape).
        if self.ceil_mode and (positions - 1) * stride >= size + padding:
            positions -= 1
        return positions

    @property
    def overlapping(self) -> bool:
        """Whether two windows can share an element of the image."""
        return any(e > s for e, s in zip(self.extent, self.stride, strict=True))

    @property
    def farthest(self) -> int:
        """How many pixels i·W + j after its first element the last element of a window stands."""
        down, right = (extent - 1 for extent in self.extent)
        return down * self.input_size[1] + right

    def blind_windows(self) -> bool:
        """Whether a window reads nothing but padding (a dilated one can step over a small image).

        This is only possible for a window that starts in the padding before the image, and only if its step
        is larger than the image: the first offset past the edge lands on one of the first d elements.
        """
        return any(
            size < step
            and any(
                -start % step >= size or (start - 1) // step + 1 >= count
                for start in range(padding, max(padding - windows * stride, 0), -stride)
            )
            for size, windows, count, stride, padding, step in zip(
                self.input_size,
                self.output_size,
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
                strict=True,
            )
        )

    def padded_size(self) -> tuple[int, int]:
        """The (height, width) of the image with all the padding that the windows reach into."""
        height, width = (n + 2 * p for n, p in zip(self.input_size, self.padding, strict=True))
        if not self.ceil_mode:  # then no window extends beyond the edge
            return height, width
        (p, q), (e_h, e_w) = self.output_size, self.extent
        return (
            max((p - 1) * self.stride[0] + e_h, height),
            max((q - 1) * self.stride[1] + e_w, width),
        )

    def pad(self, image: Tensor, value: float = 0.0) -> Tensor:
        """Surround the image with ``value``: (…, H, W) → (…, *padded_size())."""
        (h, w), (p_h, p_w), (h_all, w_all) = self.input_size, self.padding, self.padded_size()
        amounts = (p_w, w_all - w - p_w, p_h, h_all - h - p_h)
        return torch.nn.functional.pad(image, amounts, value=value)

    def crop(self, padded: Tensor) -> Tensor:
        """Undo :meth:`pad`: (…, *padded_size()) → (…, H, W)."""
        (h, w), (p_h, p_w) = self.input_size, self.padding
        return padded.narrow(-2, p_h, h).narrow(-1, p_w, w)

    def windows(self) -> Iterator[tuple[int, int, slice, slice]]:
        """Yield (p, q, rows, columns): each position and the part of the padded image that it reads."""
        (rows, columns), (e_h, e_w), (d_h, d_w) = self.output_size, self.extent, self.dilation
        for p in range(rows):
            for q in range(columns):
                top, left = p * self.stride[0], q * self.stride[1]
                yield p, q, slice(top, top + e_h, d_h), slice(left, left + e_w, d_w)

    def as_view(self, padded: Tensor) -> Tensor:
        """All windows of the padded image, without a copy: (N, C, H, W) → (N, C, P, Q, K_h, K_w).

        What is made of the view takes one pass; ``functional.unfold`` takes one call of a kernel for each
        image, which on a GPU costs more than the copy.
        """
        (rows, columns), (e_h, e_w), (d_h, d_w) = self.output_size, self.extent, self.dilation
        windows = padded.unfold(2, e_h, self.stride[0]).unfold(3, e_w, self.stride[1])
        return windows[:, :, :rows, :columns, ::d_h, ::d_w]

    def pieces(self, padded: Tensor, height: int = -2) -> Iterator[Tensor]:
        """Yield for each offset (u, v), row-major, the elements that all windows read there: (…, P, Q, …).

        ``height`` is the dimension of the rows of ``padded``, counted from the front or the back.
        Under ``torch.compile`` and ``torch.export`` the windows are those of ``Tensor.unfold``, whose
        number is P × Q for any size, whereas the end of a slice would be compared with the size.
        """
        (e_h, e_w), (s_h, s_w), (d_h, d_w) = self.extent, self.stride, self.dilation
        if torch.compiler.is_compiling() and not self.ceil_mode:
            axis = height % padded.dim()
            windows = padded.unfold(axis, e_h, s_h).unfold(axis + 1, e_w, s_w)
            for u in range(self.kernel_size[0]):
                for v in range(self.kernel_size[1]):
                    piece = windows.select(-1, v * d_w).select(-1, u * d_h)
                    yield piece.clone(memory_format=torch.contiguous_format)
        else:
            for _, _, rows, columns in self.offsets():
                yield cut(padded, rows, columns, height)

    def offsets(self) -> Iterator[tuple[int, int, slice, slice]]:
        """Yield (u, v, rows, columns): each offset and the part of the padded image that all
        windows read there.
        """
        (rows, columns), (s_h, s_w) = self.output_size, self.stride
        for u in range(self.kernel_size[0]):
            for v in range(self.kernel_size[1]):
                top, left = u * self.dilation[0], v * self.dilation[1]
                yield (
                    u,
                    v,
                    slice(top, top + (rows - 1) * s_h + 1, s_h),
                    slice(left, left + (columns - 1) * s_w + 1, s_w),
                )
