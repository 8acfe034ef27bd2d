"""Parts that the networks share: normalisation by name, and a convolution with the layers after it."""

from __future__ import annotations

from torch import nn

from cnnexp.models.activation import activation_layer

NORMS = ("none", "batch", "group")


def norm_layer(name: str, channels: int) -> nn.Module | None:
    """A new normalisation of ``channels`` channels; None for ``"none"``.

    ``"group"`` has groups of 8 channels, or of the greatest common divisor of 8 and ``channels``.

    Raises:
        ValueError: The name is unknown.

    Source: Ioffe & Szegedy, "Batch Normalization" (2015); Wu & He, "Group Normalization" (2018).
    """
    if name not in NORMS:
        raise ValueError(f"unknown norm '{name}'; known: {', '.join(NORMS)}")
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "group":
        size = next(size for size in (8, 4, 2, 1) if channels % size == 0)
        return nn.GroupNorm(channels // size, channels)
    return None


def conv_block(
    c_in: int,
    c_out: int,
    kernel_size: int,
    *,
    activation: str = "relu",
    norm: str = "none",
    stride: int = 1,
) -> list[nn.Module]:
    """The layers convolution, normalisation, activation; ``stride`` divides the image's height and width.

    A convolution before a normalisation has no bias, because the normalisation would subtract it.
    """
    padding: int | str = kernel_size // 2 if stride > 1 or kernel_size % 2 else "same"
    following = norm_layer(norm, c_out)
    conv = nn.Conv2d(c_in, c_out, kernel_size, stride, padding, bias=following is None)
    return [conv, *([following] if following else []), activation_layer(activation)]


def check_probability(**probabilities: float) -> None:
    """Raise ``ValueError`` unless each of the ``probabilities`` is in [0, 1)."""
    for name, value in probabilities.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, but got {value}")
