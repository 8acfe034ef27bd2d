"""What is drawn into TensorBoard of the test images, once, at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cnnexp.diagnostics.figures import picture_grid
from cnnexp.training.loggers import event_writers
from cnnexp.training.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_MOST_CURVES = 20  # one a class
_MOST_POINTS = 1000  # of the embedding
_MOST_WORST = 36  # images in the grid of those misclassified worst


class TestPictures(Callback):
    """After the test, draw the confusion matrix, the worst images, precision and recall by class.

    Args:
        classes: Name of each class.
        ranks: The processes that share the test images.
        embedding: Write what the last linear layer gets for the first test images, for the
            projector, as ``embedding``.
    """

    __test__ = False  # not a test, whatever pytest thinks of its name

    def __init__(
        self,
        classes: Sequence[str],
        ranks: Ranks = ALONE,
        *,
        embedding: bool = False,
    ) -> None:
        self._classes, self._ranks = tuple(classes), ranks
        self._embedding = embedding
        self._hook: RemovableHandle | None = None
        self._start()

    def _start(self) -> None:
        self._labels: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._worst = (torch.empty(0), torch.empty(0), torch.empty(0, 2, dtype=torch.int64))
        self._features: list[Tensor] = []
        self._thumbnails: list[Tensor] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier test."""
        self._start()
        if not (self._embedding and self._ranks.first and event_writers(trainer.loggers)):
            return
        network: nn.Module = pl_module.network  # pyright: ignore[reportAssignmentType]
        linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
        if linear:
            self._hook = linear[-1].register_forward_pre_hook(self._keep_features)

    def _keep_features(self, layer: nn.Module, taken: tuple[Tensor, ...]) -> None:
        if sum(map(len, self._features)) < _MOST_POINTS:
            self._features.append(taken[0].detach().flatten(1).float().cpu())

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep labels and logits, and the images that were misclassified worst."""
        images, labels = batch
        logits = outputs.float()
        self._labels.append(labels.cpu())
        self._logits.append(logits.cpu())
        if self._hook is not None and sum(map(len, self._thumbnails)) < _MOST_POINTS:
            self._thumbnails.append(images.float().cpu())
        missed = logits.argmax(1) != labels
        losses = F.cross_entropy(logits[missed], labels[missed], reduction="none").cpu()
        pairs = torch.stack((labels, logits.argmax(1)), 1)[missed].cpu()
        self._worst = _worst([self._worst, (losses, images[missed].cpu(), pairs)])

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw what the test has shown."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        drawn_into = event_writers(trainer.loggers)
        if not drawn_into:
            return
        mine = (torch.cat(self._labels), torch.cat(self._logits), self._worst)
        gathered = self._ranks.gather(mine)
        if not self._ranks.first:
            return
        labels, logits = (torch.cat([part[i] for part in gathered]) for i in (0, 1))
        losses, images, pairs = _worst([part[2] for part in gathered])
        classes = len(self._classes)
        cells = torch.bincount(labels * classes + logits.argmax(1), minlength=classes**2)
        matrix = cells.view(classes, classes)  # a row for each label, a column for each prediction
        confusion = confusion_figure(matrix, self._classes)
        worst = worst_figure(images, pairs, losses, self._classes)
        step, probabilities = trainer.global_step, logits.softmax(1)
        for board in drawn_into:
            board.add_figure("test/confusion_matrix", confusion, step)
            board.add_figure("test/worst", worst, step)
            for i, name in enumerate(self._classes[:_MOST_CURVES]):
                board.add_pr_curve(f"test/pr/{name}", labels == i, probabilities[:, i], step)
            if self._features:
                self._add_embedding(board, step)

    def _add_embedding(self, board: Any, step: int) -> None:
        if [len(f) for f in self._features] != [len(t) for t in self._thumbnails]:
            return  # the layer sees something else than images one by one
        features = torch.cat(self._features)[:_MOST_POINTS]
        names = [self._classes[i] for i in torch.cat(self._labels)[: len(features)].tolist()]
        pictures = torch.cat(self._thumbnails)[: len(features)]
        fits = max(pictures.shape[2:]) <= 64 and pictures.size(2) == pictures.size(3)
        board.add_embedding(features, names, pictures if fits else None, step, tag="embedding")


Worst = tuple[Tensor, Tensor, Tensor]  # losses (K,), images (K, C, H, W), (true, predicted) (K, 2)


def _worst(parts: Sequence[Worst]) -> Worst:
    """The images with the greatest loss among all ``parts``."""
    parts = [part for part in parts if len(part[0])] or list(parts[-1:])
    losses, images, pairs = (torch.cat([part[i] for part in parts]) for i in range(3))
    kept = losses.argsort(descending=True, stable=True)[:_MOST_WORST]
    return losses[kept], images[kept], pairs[kept]


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


def worst_figure(images: Tensor, pairs: Tensor, losses: Tensor, classes: Sequence[str]) -> Figure:
    """Images (K, C, H, W) in 0…1 in a grid, titled by (true, predicted) ``pairs`` (K, 2) and loss (K,)."""
    captions = [
        _caption(classes[int(true)], classes[int(predicted)], loss)
        for (true, predicted), loss in zip(pairs.tolist(), losses.tolist(), strict=True)
    ]
    figure = picture_grid(images, captions)
    if not len(images):
        figure.suptitle("none misclassified")
    return figure


def _caption(true: str, predicted: str, loss: float) -> str:
    """Two lines, whatever the names' length."""
    if len(true) + len(predicted) > 10:
        return f"{true} taken for\n{predicted}, loss {loss:.2f}"
    return f"{true} taken for {predicted}\nloss {loss:.2f}"
