"""Gradient descent on the whole training set."""

from __future__ import annotations

from typing import Any

import torch


class GradientDescent(torch.optim.SGD):
    """``torch.optim.SGD`` by the gradient of the mean loss of all training images, one step per epoch.

    The batches of an epoch are accumulated, each weighted by its number of images, so that the
    gradient is exact for any ``data.batch_size``, which only bounds the memory. An optimiser class
    declares this to the training by ``full_batch``.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate, ≥ 0.
        momentum: Momentum in [0, 1).
        weight_decay: Coupled weight decay, ≥ 0.

    Source: Cauchy, "Méthode générale pour la résolution des systèmes d'équations simultanées"
    (1847).
    """

    full_batch = True

    def __init__(
        self, params: Any, lr: float = 0.5, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
