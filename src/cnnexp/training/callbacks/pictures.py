"""Callbacks that draw into TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_confusion_matrix

from cnnexp.training.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FirstLayerFilters", "TestPictures"]


class FirstLayerFilters(Callback):
    """Draw the kernels of the first convolution as ``filters/<layer>``, before and after each epoch."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the untrained kernels."""
        if trainer.global_step == 0:
            self._draw(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the kernels of this epoch."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        from torchvision.utils import make_grid

        network: nn.Module = pl_module.network  # pyright: ignore[reportAssignmentType]
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d):
                kernels = layer.weight.detach().float().cpu()
                if kernels.size(1) not in (1, 3):  # not an image: one row of channels a kernel
                    kernels = kernels.flatten(0, 1).unsqueeze(1)
                grid = make_grid(kernels, nrow=8, normalize=True, scale_each=True, padding=1)
                large = grid.repeat_interleave(12, 1).repeat_interleave(12, 2)
                for board in _boards(trainer):
                    board.add_image(f"filters/{name}", large, trainer.global_step)
                return


class TestPictures(Callback):
    """After the test, draw ``test/confusion_matrix`` and ``test/misclassified``.

    Args:
        classes: Name of each class.
        most: Images in the grid of misclassified ones at the most.
        ranks: The processes that share the test images.
    """

    __test__ = False  # not a test, whatever pytest thinks of its name

    def __init__(self, classes: Sequence[str], most: int = 36, ranks: Ranks = ALONE) -> None:
        self._classes, self._most, self._ranks = tuple(classes), most, ranks
        self._labels: list[Tensor] = []
        self._predictions: list[Tensor] = []
        self._wrong: list[Tensor] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier test."""
        self._labels, self._predictions, self._wrong = [], [], []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep labels and predictions, and the images that were misclassified."""
        images, labels = batch
        self._labels.append(labels.cpu())
        self._predictions.append(outputs.cpu())
        self._wrong.append(images[outputs != labels].cpu())

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw."""
        boards = _boards(trainer)
        if not boards:
            return
        parts = (self._labels, self._predictions, self._wrong)
        gathered = self._ranks.gather([torch.cat(each) for each in parts])
        if not self._ranks.first:
            return
        labels, predictions, wrong_images = (
            torch.cat(each) for each in zip(*gathered, strict=True)
        )
        matrix = multiclass_confusion_matrix(predictions, labels, len(self._classes))
        missed = predictions != labels
        confusion = confusion_figure(matrix, self._classes)
        pairs = torch.stack((labels[missed], predictions[missed]), 1)[: self._most]
        wrong = misclassified_figure(wrong_images[: self._most], pairs, self._classes)
        for board in boards:
            board.add_figure("test/confusion_matrix", confusion, trainer.global_step)
            board.add_figure("test/misclassified", wrong, trainer.global_step)


def confusion_figure(matrix: Tensor, classes: Sequence[str]) -> Figure:
    """The confusion matrix (classes × classes, rows true) as a figure, counts in the cells."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.add_subplot()
    count = len(classes)
    shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row in range(count):
        for column in range(count):
            number = int(matrix[row, column])
            if number:
                dark = shares[row, column] > 0.5
                axes.text(column, row, str(number), ha="center", va="center", fontsize=8,
                          color="white" if dark else "black")  # fmt: skip
    axes.set(xlabel="predicted", ylabel="true", title="test images by true and predicted class")
    axes.set_xticks(range(count), classes)
    axes.set_yticks(range(count), classes)
    figure.colorbar(image, label="share of the true class")
    return figure


def misclassified_figure(images: Tensor, pairs: Tensor, classes: Sequence[str]) -> Figure:
    """Images (K, C, H, W) in 0…1 in a grid, titled by (true, predicted) ``pairs`` (K, 2)."""
    from matplotlib.figure import Figure

    columns = 6
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(1.3 * columns, 1.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes in grid:
        axes.set_axis_off()
    for axes, image, (true, predicted) in zip(grid, images, pairs.tolist(), strict=False):
        pixels = image.permute(1, 2, 0).squeeze(-1).numpy()
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"{classes[true]} taken for {classes[predicted]}", fontsize=8)
    if not len(images):
        figure.suptitle("none misclassified")
    return figure


def _boards(trainer: L.Trainer) -> list[Any]:
    return [x.experiment for x in trainer.loggers if isinstance(x, TensorBoardLogger)]
