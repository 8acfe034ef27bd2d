"""Draw the training images whose gradients pull the weights hardest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor

from cnnexp.data import ImageDataModule
from cnnexp.diagnostics.figures import picture_grid
from cnnexp.nn import PerSampleError, largest_gradients, left_as_found
from cnnexp.training.callbacks.pictures import worth_drawing
from cnnexp.training.classifier import Classifier
from cnnexp.training.loggers import event_writers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

_LOOKED_AT = 512  # training images, evenly spread over all
_DRAWN = 24


class HardestImages(Callback):
    """Draw, by epoch, the training images of the largest ‖∂ℓ/∂θ‖ as ``grad/hardest``.

    Of the same 512 training images, without augmentation, with the network in evaluation mode and the loss of
    the training. Wrong labels, clutter and rare shapes come first. A network whose samples cannot be told
    apart has no picture, and the log says why.

    Args:
        data: Of the training images.
        classes: The name of each class.
    """

    def __init__(self, data: ImageDataModule, classes: Sequence[str]) -> None:
        self._data, self._classes = data, tuple(classes)
        self._failed = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw those of this epoch's weights."""
        assert isinstance(pl_module, Classifier)
        boards = event_writers(trainer.loggers)
        sharded = isinstance(trainer.strategy, FSDPStrategy)
        if self._failed or sharded or not boards or not worth_drawing(trainer, trainer.global_step):
            return
        try:
            figure = self._figure(pl_module)
        except (PerSampleError, RuntimeError) as error:
            self._failed = True
            reason = str(error).splitlines()[0]
            log.warning("diagnostics: no gradients by image of this network: %s", reason)
            return
        for board in boards:
            board.add_figure("grad/hardest", figure, trainer.global_step)

    def _figure(self, module: Classifier) -> Figure:
        count = len(self._data.train)
        spread = torch.linspace(0, count - 1, min(_LOOKED_AT, count)).round().long()
        pixels, labels = self._data.train.batch(spread)
        images = pixels.to(module.device).float() / 255
        labels = labels.to(module.device)
        with left_as_found(module.network):
            module.network.eval()
            inputs = module.normalise(images).to(next(module.network.parameters()).dtype)
            pulled = largest_gradients(
                module.network, module.train_loss, (inputs, labels), count=_DRAWN
            )
            with torch.no_grad():
                predicted = module.network(inputs[pulled.indices]).argmax(1).cpu()
        chosen = pulled.indices.cpu()
        return hardest_figure(
            images.cpu()[chosen], labels.cpu()[chosen], predicted, pulled.norms.cpu(), self._classes
        )


def hardest_figure(
    images: Tensor, labels: Tensor, predicted: Tensor, norms: Tensor, classes: Sequence[str]
) -> Figure:
    """Images (K, C, H, W) in 0…1 in a grid, titled by label, predicted class if it differs, and norm."""
    captions = []
    for label, other, norm in zip(labels.tolist(), predicted.tolist(), norms.tolist(), strict=True):
        name = classes[label] if label == other else f"{classes[label]} taken for {classes[other]}"
        captions.append(f"{name}\n‖g‖ {norm:.3g}")
    return picture_grid(images, captions)
