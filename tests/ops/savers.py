"""Other ways to save memory in a forward pass, with which ours must go together."""

from __future__ import annotations

from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint


def by_checkpoint(network: nn.Module, image: Tensor) -> Tensor:
    """What ``network`` gives for ``image``, computed again in the backward."""
    return checkpoint(network, image, use_reentrant=False)  # pyright: ignore[reportReturnType]


def reentrant(network: nn.Module, image: Tensor) -> Tensor:
    """The same by the older kind of checkpoint."""
    return checkpoint(network, image, use_reentrant=True)  # pyright: ignore[reportReturnType]


def kept_elsewhere(network: nn.Module, image: Tensor) -> Tensor:
    """What ``network`` gives for ``image``, with hooks that move what is kept."""
    with save_on_cpu():
        return network(image)
