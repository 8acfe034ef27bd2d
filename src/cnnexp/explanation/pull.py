"""How hard one image pulls the weights, beside the other images of its data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cnnexp.data import ImageSet
from cnnexp.inference import TrainedNetwork
from cnnexp.nn import PerSampleError, left_as_found, per_sample_norms

__all__ = ["Pull", "Rival", "pull_of"]

log = logging.getLogger(__name__)

_BESIDE = 200  # test images that it is compared with
_SHOWN = 6


@dataclass(frozen=True)
class Rival:
    """One of the images that pull hardest.

    Attributes:
        index: Its number among the test images.
        pixels: (C, H, W) in 0…1.
        label: The index of its class.
        norm: ‖∂ℓ/∂θ‖.
    """

    index: int
    pixels: Tensor
    label: int
    norm: float


@dataclass(frozen=True)
class Pull:
    """‖∂ℓ/∂θ‖ of one image, beside those of others.

    Attributes:
        norm: Of this image, over all parameters.
        layers: Over each layer's, by the layer's name.
        beside: How many other test images it was compared with.
        larger: How many of these pull harder.
        median: Their median.
        hardest: Those that pull hardest, the hardest first.
    """

    norm: float
    layers: Mapping[str, float]
    beside: int
    larger: int
    median: float
    hardest: tuple[Rival, ...]


def pull_of(
    trained: TrainedNetwork, pixels: Tensor, label: int, images: ImageSet | None = None
) -> Pull | None:
    """How hard the image pulls; None, and a line in the log, where no sample can be told from the others.

    Args:
        trained: The network, run in evaluation mode; it is not changed.
        pixels: (C, H, W) in 0…1.
        label: The class whose loss ℓ is.
        images: Whose test images it is compared with, evenly spread ones; None for no comparison.
    """
    count = len(images.test) if images is not None else 0
    spread = torch.linspace(0, count - 1, min(_BESIDE, count)).round().long()
    others, labels = torch.empty(0, *pixels.shape), torch.empty(0).long()
    if images is not None:
        raw, labels = images.test.batch(spread)
        others = raw.float() / 255
    module = trained.classifier
    batch = torch.cat((pixels.unsqueeze(0), others)), torch.cat((torch.tensor([label]), labels))
    try:
        with left_as_found(module.network):
            module.network.eval().requires_grad_(True)
            inputs = module.normalise(batch[0])
            by_layer = per_sample_norms(
                module.network, torch.nn.CrossEntropyLoss(), (inputs, batch[1]), by_layer=True
            )
    except PerSampleError as error:
        log.warning("no gradients by image of this network: %s", str(error).splitlines()[0])
        return None
    norms = torch.stack([*by_layer.values()]).square().sum(0).sqrt()
    mine, rest = float(norms[0]), norms[1:]
    rivals = [
        Rival(int(spread[i]), others[i], int(labels[i]), float(rest[i]))
        for i in rest.argsort(descending=True, stable=True)[:_SHOWN].tolist()
    ]
    return Pull(
        norm=mine,
        layers={name: float(norm[0]) for name, norm in by_layer.items()},
        beside=len(rest),
        larger=int((rest > mine).sum()),
        median=float(rest.median()) if len(rest) else 0.0,
        hardest=tuple(rivals),
    )
