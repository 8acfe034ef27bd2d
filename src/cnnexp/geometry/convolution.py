"""The arguments of a convolution, checked and brought into one form."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.described import Described, described, remembered
from cnnexp.geometry.windows import IntPair, WindowGeometry, as_pair, check_image


@dataclass(frozen=True)
class Conv2dGeometry(WindowGeometry):
    """A :class:`WindowGeometry` with ``groups``.

    ``input_size`` includes ``extra``: rows and columns of zeros below and to the right of the image
    that padding='same' needs when d·(K − 1) is odd.

    Attributes:
        backward_padding: With which ∂L/∂z is convolved to ∂L/∂x, at stride 1; below 0 where the padding
            exceeds the kernel.
        exact: Whether all numbers are ints: True and 1.0 equal 1, but a library's convolution refuses them.
    """

    groups: int = 1
    extra: tuple[int, int] = (0, 0)
    # each kernel asks for these, at each call
    backward_padding: tuple[int, int] = field(init=False, repr=False, compare=False)
    exact: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        (e_h, e_w), (p_h, p_w) = self.extent, self.padding
        object.__setattr__(self, "backward_padding", (e_h - 1 - p_h, e_w - 1 - p_w))
        numbers = (self.groups, *self.stride, *self.padding, *self.dilation)
        exact = not any(isinstance(number, (bool, float)) for number in numbers)
        object.__setattr__(self, "exact", exact)

    def add_extra(self, input: Tensor) -> Tensor:
        """Append the ``extra`` zeros: (N, C, H, W) → (N, C, *input_size)."""
        return F.pad(input, (0, self.extra[1], 0, self.extra[0])) if any(self.extra) else input

    def drop_extra(self, grad_input: Tensor) -> Tensor:
        """The gradient of :meth:`add_extra`, which drops the gradient of the appended zeros."""
        if not any(self.extra):
            return grad_input
        (h, w), (e_h, e_w) = grad_input.shape[-2:], self.extra
        return grad_input.narrow(-2, 0, h - e_h).narrow(-1, 0, w - e_w)


def conv2d_geometry(
    input: Tensor,
    weight: Tensor | Described,
    bias: Tensor | None,
    stride: IntPair,
    padding: IntPair | str,
    dilation: IntPair,
    groups: int,
) -> Conv2dGeometry:
    """Check the arguments of ``conv2d`` and compute its geometry.

    Arguments and errors are those of ``torch.nn.functional.conv2d``: ``RuntimeError`` for shapes, ranges
    and dtypes that do not fit together, ``TypeError`` for values of the wrong type.
    """
    tensors = described(input), described(weight), None if bias is None else described(bias)
    return remembered(conv2d_geometry_of, tensors, stride, padding, dilation, groups)


def conv2d_geometry_of(
    input: Described,
    weight: Described,
    bias: Described | None,
    stride: IntPair,
    padding: IntPair | str,
    dilation: IntPair,
    groups: int,
) -> Conv2dGeometry:
    """:func:`conv2d_geometry` of tensors that are described, computed anew."""
    check_image(input.shape, "conv2d")
    if len(weight.shape) != 4:
        raise RuntimeError(
            f"weight must be (C_out, C_in/groups, K_h, K_w), got {list(weight.shape)}"
        )
    _check_channels(input, weight, bias, groups)
    if input.shape[-2] == 0 or input.shape[-1] == 0:
        raise RuntimeError(
            f"conv2d takes an empty batch, but no empty images, and got input of size "
            f"{list(input.shape)}"
        )
    stride, dilation = as_pair(stride, "stride"), as_pair(dilation, "dilation")
    # convert to ints, since torch.compile would leave the sizes of the weight symbolic
    kernel_size = as_pair((weight.shape[2], weight.shape[3]), "kernel_size")
    pads, extra = _pads(padding, kernel_size, stride, dilation)
    size = (input.shape[-2] + extra[0], input.shape[-1] + extra[1])
    return Conv2dGeometry(
        size, kernel_size, stride, pads, dilation, ceil_mode=False, groups=groups, extra=extra
    )


def padding_by_side(
    kernel_size: IntPair, padding: IntPair | str, dilation: IntPair
) -> tuple[int, int, int, int]:
    """The number of elements that ``padding`` adds at each side, in the order of ``functional.pad``.

    The order is left, right, above, below. The odd one of 'same' is added on the right and below, as in
    torch.
    """
    size, steps = as_pair(kernel_size, "kernel_size"), as_pair(dilation, "dilation")
    (height, width), more = _pads(padding, size, (1, 1), steps)
    return width, width + more[1], height, height + more[0]


def _check_channels(
    input: Described, weight: Described, bias: Described | None, groups: int
) -> None:
    c_in, c_out = input.shape[-3], weight.shape[0]
    if groups < 1:
        raise RuntimeError(f"groups must be at least 1, but got {groups}")
    if c_out == 0 or c_out % groups:
        raise RuntimeError(
            f"groups={groups} must divide the number of output channels, but weight has shape "
            f"{list(weight.shape)}"
        )
    if c_in != weight.shape[1] * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(weight.shape)}, expected input "
            f"{list(input.shape)} to have {weight.shape[1] * groups} channels, but got {c_in} channels"
        )
    if bias is not None and bias.shape != (c_out,):
        raise RuntimeError(f"bias must have shape [{c_out}], but got {list(bias.shape)}")
    for name, other in (("weight", weight), ("bias", bias)):
        if other is not None and other.dtype != input.dtype:
            raise RuntimeError(
                f"Input type ({input.dtype}) and {name} type ({other.dtype}) should be the same"
            )
        if other is not None and other.device != input.device:
            raise RuntimeError(
                f"input on {input.device} and {name} on {other.device} should be on one device"
            )


def _pads(
    padding: IntPair | str,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The padding on both sides, and what 'same' adds to it below and to the right."""
    if not isinstance(padding, str):
        return as_pair(padding, "padding"), (0, 0)
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding != "same":
        raise RuntimeError(f"Invalid padding string: '{padding}'; allowed: 'same', 'valid'")
    if stride != (1, 1):
        raise RuntimeError(f"padding='same' is not supported for strided convolutions: {stride}")
    total_h, total_w = (d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True))
    return (total_h // 2, total_w // 2), (total_h % 2, total_w % 2)
