"""Whether a network can be given images in channels_last memory."""

from __future__ import annotations

import logging

import torch
from torch import nn

from cnnexp.as_found import left_as_found
from cnnexp.data import ImageSet

log = logging.getLogger(__name__)


def takes_channels_last(network: nn.Module, images: ImageSet) -> bool:
    """Whether ``network`` computes on channels_last images, found out on two blank ones.

    A network that says ``x.view(len(x), -1)``, as many do, reads its images as they lie in memory, and
    torch refuses that in channels_last memory. Where it fails for another reason it would fail in
    plain memory as well: then the training is to say so. The network is left as it was found.
    """
    if type(network).__module__.startswith("cnnexp."):
        return True  # ours do, as tests see
    parameter = next(network.parameters(), torch.empty(0))
    batch = torch.zeros(2, images.channels, *images.image_size, dtype=parameter.dtype)
    with left_as_found(network), torch.no_grad():
        try:
            network.to(memory_format=torch.channels_last)(  # pyright: ignore[reportCallIssue]
                batch.to(parameter.device).contiguous(memory_format=torch.channels_last)
            )
        except Exception as error:
            if "view size is not compatible" in str(error):
                log.info(
                    "accelerator.channels_last: the network uses .view on its images, which channels_last "
                    "memory does not allow, so they lie in plain memory (NCHW); .flatten(1) or .reshape "
                    "would gain its speed"
                )
                return False
    return True
