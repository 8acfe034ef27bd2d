"""What an attack reads from a network: the loss of each image, and the scaled confidence in its label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cnnexp.data import Samples
from cnnexp.training import Classifier


@dataclass(frozen=True)
class ImageScores:
    """The figures of each of N images.

    Attributes:
        losses: (N,) float64: softmax cross-entropy −log p of the image's label, in nats.
        confidences: (N,) float64: log(p / (1 − p)), which is nearly normal over trainings (Carlini et al.,
            2022, section IV.C).
        right: (N,) bool: whether the label is the predicted class.
    """

    losses: Tensor
    confidences: Tensor
    right: Tensor

    @property
    def accuracy(self) -> float:
        """The share of the images that are classified correctly."""
        return float(self.right.double().mean())


@torch.inference_mode()
def score_images(classifier: Classifier, images: Samples, batch_size: int = 500) -> ImageScores:
    """Score all ``images`` with a ``classifier`` in evaluation mode."""
    device = classifier.mean.device
    losses, confidences, right = [], [], []
    for indices in torch.arange(len(images)).split(batch_size):
        pixels, labels = images.batch(indices)
        logits = classifier(pixels.to(device).float() / 255).double().cpu()
        own = labels.unsqueeze(1)
        # of the logits, not of p, which is 1 in floating point where the network is sure
        others = logits.scatter(1, own, -torch.inf).logsumexp(1)
        confidence = logits.gather(1, own).squeeze(1) - others
        confidences.append(confidence)
        losses.append(torch.nn.functional.softplus(-confidence))
        right.append(logits.argmax(1) == labels)
    if not losses:
        raise ValueError("there are no images to score")
    return ImageScores(torch.cat(losses), torch.cat(confidences), torch.cat(right))
