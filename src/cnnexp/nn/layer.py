"""What all layers over ``cnnexp.ops`` have in common: the algorithm that they compute with."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from cnnexp import ops

__all__ = ["Layer"]


class Layer(nn.Module):
    """Mixed into a layer of ``torch.nn``, which it precedes among the bases.

    Args:
        *args, **kwargs: As the layer of ``torch.nn``.
        algorithm: A name from ``cnnexp.ops.algorithm_names(op)``, or ``"auto"``.

    Raises:
        UnknownAlgorithmError: ``algorithm`` is not registered.
    """

    op: ClassVar[str]
    algorithm: str

    def __init__(self, *args: Any, algorithm: str = "direct", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.algorithm = ops.get_algorithm(self.op, algorithm).name

    def extra_repr(self) -> str:
        """The layer's settings, for ``repr``."""
        settings = super().extra_repr()
        return (
            f"{settings}, algorithm={self.algorithm}" if settings else f"algorithm={self.algorithm}"
        )
