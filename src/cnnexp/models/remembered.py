"""A map without parameters that remembers what it made of each image."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Remembered"]


class Remembered(nn.Module):
    """``fixed``, computed once for each image: what it made of an image is found again by the image's bytes.

    In a training on features that nobody learns, the second epoch then costs a look-up. What is found is
    what would have been computed, to the bit, if ``fixed`` treats each image by itself. When the memory is
    full, images that are not in it are computed each time. Nothing is remembered on a GPU, in a graph
    (compiled, exported, traced) or under autocast. Copies and pickles begin with an empty memory, and so
    does a module that has been moved or converted.

    Args:
        fixed: Maps (N, …) images to (N, …) features, without parameters and without a graph.
        megabytes: How large the memory may become (10⁶ bytes of features), ≥ 0; 0 for none.

    Raises:
        ValueError: ``megabytes`` is negative, or ``fixed`` has parameters, which may change.

    Examples:
        >>> pool = Remembered(nn.AvgPool2d(2), megabytes=1)
        >>> images = torch.rand(5, 1, 28, 28)
        >>> torch.equal(pool(images), pool(images)), pool.images
        (True, 5)
    """

    def __init__(self, fixed: nn.Module, megabytes: float) -> None:
        super().__init__()
        if megabytes < 0:
            raise ValueError(f"megabytes to remember must be at least 0, but got {megabytes}")
        if any(True for _ in fixed.parameters()):
            raise ValueError(f"{type(fixed).__name__} has parameters, which training may change")
        self.fixed, self.megabytes = fixed, megabytes
        self._forget()

    def _forget(self) -> None:
        self._features: dict[bytes, Tensor] = {}  # by the name of the image
        self._bytes = 0

    @property
    def images(self) -> int:
        """How many images' features are remembered."""
        return len(self._features)

    def forward(self, images: Tensor) -> Tensor:
        """Return ``fixed(images)``."""
        if not self.megabytes or not _by_value(images):
            return self.fixed(images)
        keys = _keys(images)
        if keys is None:
            return self.fixed(images)
        rows = {key: row for row, key in enumerate(keys) if key not in self._features}
        new: dict[bytes, Tensor] = {}
        if rows:
            new = dict(zip(rows, self.fixed(images[list(rows.values())]), strict=True))
        found = torch.stack([new[k] if k in new else self._features[k] for k in keys])
        self._keep(new)
        return found

    def _keep(self, new: dict[bytes, Tensor]) -> None:
        """Remember as many of the features ``new`` as there is room for."""
        for key, features in new.items():
            if self._bytes + features.nbytes > self.megabytes * 1e6:
                return
            self._features[key] = features
            self._bytes += features.nbytes

    def _apply(self, *args: Any, **kwargs: Any) -> Remembered:
        self._forget()
        super()._apply(*args, **kwargs)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_features": {}, "_bytes": 0}

    def extra_repr(self) -> str:
        """The size of the memory, for ``print(network)``."""
        return f"megabytes={self.megabytes:g}"


def _by_value(images: Tensor) -> bool:
    """Whether the bytes of ``images`` can be read here, and say all that the features depend on."""
    return (
        type(images) is Tensor
        and images.device.type == "cpu"
        and images.ndim > 1
        and len(images) > 0
        and not images.requires_grad
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.onnx.is_in_onnx_export()
        and not torch.is_autocast_enabled("cpu")
    )


def _keys(images: Tensor) -> list[bytes] | None:
    """A name for each image, made of its bytes; None where they cannot be read, as under ``vmap``."""
    kind = blake2b(f"{images.dtype} {images.shape[1:]}".encode(), digest_size=16).digest()
    try:
        rows = images.contiguous().flatten(1).view(torch.uint8).numpy()
    except RuntimeError:
        return None
    return [blake2b(row, digest_size=16, salt=kind).digest() for row in rows]
