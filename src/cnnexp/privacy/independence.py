"""Whether a network computes with each sample by itself: clipping bounds nothing where it does not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cnnexp.privacy.errors import PrivacyError

__all__ = ["check_independence"]

_TOLERANCE = 1e-4  # of the greatest value: libraries sum a batch of other images in another order


def check_independence(network: nn.Module, image: Tensor) -> None:
    """See whether what ``network`` makes of an image depends on the other images of its batch.

    Random images go through it, in its present mode, with the same random numbers in each pass.

    Args:
        network: Maps (N, C, H, W) to (N, …); buffers that it changes are given their values back.
        image: (1, C, H, W), of which only shape, dtype, device and layout count.

    Raises:
        PrivacyError: It does, or it keeps something of the images.
    """
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    generator = torch.Generator().manual_seed(0)
    one, other, third = torch.randn(3, 1, *image.shape[1:], generator=generator).to(image)
    with torch.no_grad():
        alike = [_first(network, torch.cat([one, beside])) for beside in (other, 10 * third)]
        kept = [
            name
            for name, buffer in network.named_buffers()
            if not torch.equal(buffer, buffers[name])
        ]
        for name in kept:
            network.get_buffer(name).copy_(buffers[name])
    if kept:
        raise PrivacyError(
            f"the network changes {', '.join(kept)} in its forward pass: statistics of the images, which the "
            f"noise does not cover; leave them out with privacy"
        )
    difference = (alike[0] - alike[1]).abs().max()
    if not difference <= _TOLERANCE * alike[0].abs().max():
        raise PrivacyError(
            f"what the network makes of one image depends on the other images of the batch (by "
            f"{float(difference):.3g}), so that clipping each image's gradient bounds nothing; take the part "
            f"that looks at the whole batch out, or use GroupNorm in its place"
        )


def _first(network: nn.Module, images: Tensor) -> Tensor:
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        return network(images)[0].double()
