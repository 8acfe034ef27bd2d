"""Pictures that are drawn into TensorBoard during a training."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from cnnexp.data import ImageDataModule
from cnnexp.diagnostics import TracedLayer, undisturbed
from cnnexp.diagnostics.figures import gradient_flow_figure
from cnnexp.diagnostics.keys import chart_layout
from cnnexp.nn import left_as_found, replace_layers
from cnnexp.runs import RunFolder
from cnnexp.training.callbacks.diagnostics import Diagnostics
from cnnexp.training.classifier import Classifier
from cnnexp.training.epochs import epoch_of
from cnnexp.training.lightning_internals import steps_logged
from cnnexp.training.loggers import event_writers
from cnnexp.training.non_finite import NonFiniteError

log = logging.getLogger(__name__)

_MOST_CHANNELS = 64  # of a layer's feature maps
_STEPS = 100  # between two drawings, or more
_IMAGES = 64  # that histograms of activations are of


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
        network: nn.Module = pl_module.network  # pyright: ignore[reportAssignmentType]
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d):
                kernels = layer.weight.detach().float().cpu()
                if kernels.size(1) not in (1, 3):  # not an image: one row of channels a kernel
                    kernels = kernels.flatten(0, 1).unsqueeze(1)
                grid = _grid(kernels, 12)
                for board in event_writers(trainer.loggers):
                    board.add_image(f"filters/{name}", grid, trainer.global_step)
                return


class TrainingPictures(Callback):
    """Draw feature maps, histograms, intervals and the gradient's way back, and lay the charts out.

    Only what ``cnnexp.diagnostics.keys`` lists; nothing without a TensorBoard logger. Of epochs that
    are shorter than a hundred steps, so many are left out that a drawing comes every hundred.

    Args:
        diagnostics: That finds the layers.
        data: Whose first validation image the feature maps are of.
        folder: The run folder, whose metrics the gradient's way is drawn from.
        full: Draw the graph and histograms of activations as well.
    """

    at_each_step = True

    def __init__(
        self, diagnostics: Diagnostics, data: ImageDataModule, folder: RunFolder, *, full: bool
    ) -> None:
        self._diagnostics, self._data, self._folder = diagnostics, data, folder
        self._full, self._drawn = full, -1

    @property
    def _layers(self) -> Sequence[TracedLayer]:
        return self._diagnostics.layers

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lay the charts out, draw the graph and what the untrained network sees."""
        assert isinstance(pl_module, Classifier)
        if trainer.global_step or not self._layers or not event_writers(trainer.loggers):
            return
        names = [layer.name for layer in self._layers]
        for board in event_writers(trainer.loggers):
            board.add_custom_scalars(chart_layout(names))
            if self._full:
                _add_graph(board, pl_module, self._images(pl_module, 1))
        self._draw_activations(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Draw the gradients of an epoch's last step: Lightning drops them before the validation."""
        batch = trainer.fit_loop.epoch_loop.batch_idx
        last = trainer.is_last_batch or batch + 1 == trainer.num_training_batches
        step = trainer.global_step + 1
        if not last or self._drawn == trainer.global_step or not worth_drawing(trainer, step):
            return
        self._drawn = trainer.global_step
        for board in event_writers(trainer.loggers):
            for layer in self._layers:
                tag = f"histogram/grad/{layer.name}"
                _add_histogram(board, tag, layer.parameter.grad, step)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw what an epoch has made of the layers."""
        assert isinstance(pl_module, Classifier)
        if not self._layers or not event_writers(trainer.loggers):
            return
        step = trainer.global_step
        if worth_drawing(trainer, step):
            self._draw_activations(trainer, pl_module)
            for board in event_writers(trainer.loggers):
                for layer in self._layers:
                    _add_histogram(board, f"histogram/weight/{layer.name}", layer.weight, step)
        seen = int(trainer.num_training_batches) * self._data.batch_size
        steps = steps_logged(trainer)
        self._add_margin(trainer, "train/acc", min(seen, len(self._data.train)), steps - 1)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw how certain the accuracy is."""
        if not trainer.sanity_checking:
            seen = int(sum(trainer.num_val_batches)) * self._data.eval_batch_size
            step = steps_logged(trainer)  # not yet counted
            self._add_margin(trainer, "val/acc", min(seen, len(self._data.val)), step)

    def _add_margin(self, trainer: L.Trainer, name: str, count: int, step: int) -> None:
        """The interval of ``name``, under the step that Lightning logs it at: else there is no chart."""
        if name not in trainer.callback_metrics or not self._layers:
            return
        low, high = wilson_interval(float(trainer.callback_metrics[name]), count)
        for board in event_writers(trainer.loggers):
            board.add_scalar(f"margin/{name}/low", low, step)
            board.add_scalar(f"margin/{name}/high", high, step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the gradient's way."""
        self._draw_flow(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Draw the gradient's way, which shows where the numbers ended, if that ended the training."""
        if isinstance(exception, NonFiniteError):
            self._draw_flow(trainer)

    def _draw_flow(self, trainer: L.Trainer) -> None:
        if not event_writers(trainer.loggers) or not self._layers:
            return
        names = {f"grad/{layer.name}/activation": str(layer) for layer in self._layers}
        steps: dict[int, dict[str, float]] = {}
        for row in self._folder.read_metrics():
            if row["name"] in names:
                steps.setdefault(row["step"], {})[row["name"]] = row["value"]
        if not steps:
            return
        flow = {
            label: [values.get(name, math.nan) for values in steps.values()]
            for name, label in names.items()
        }
        figure = gradient_flow_figure(list(steps), flow)
        for board in event_writers(trainer.loggers):
            board.add_figure("gradient_flow", figure, trainer.global_step)

    @torch.no_grad()
    def _draw_activations(self, trainer: L.Trainer, module: Classifier) -> None:
        """Draw feature maps of the first validation image; with ``full``, also activations of many."""
        images = self._images(module, _IMAGES if self._full else 1)
        if not len(images):
            return
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(_layer: nn.Module, _taken: Any, output: Tensor) -> None:
                found.setdefault(name, output.float().cpu())

            return hook

        handles = [layer.module.register_forward_hook(keep(layer.name)) for layer in self._layers]
        modes = [(m, m.training) for m in module.network.modules()]
        try:
            module.network.eval()
            with undisturbed(module.network), trainer.precision_plugin.forward_context():
                module(images)
        finally:
            for handle in handles:
                handle.remove()
            for each, training in modes:
                each.training = training
        for board in event_writers(trainer.loggers):
            for name, output in found.items():
                if output.dim() == 4 and min(output.shape[2:]) > 1:
                    maps = output[0, :_MOST_CHANNELS].unsqueeze(1)
                    scale = max(1, 56 // maps.size(-1))
                    board.add_image(f"features/{name}", _grid(maps, scale), trainer.global_step)
                if self._full:
                    tag = f"histogram/activation/{name}"
                    _add_histogram(board, tag, output, trainer.global_step)

    def _images(self, module: Classifier, count: int) -> Tensor:
        """The first so many validation images, or training images without these, in 0…1."""
        part = self._data.val if len(self._data.val) else self._data.train
        pixels, _ = part.batch(torch.arange(min(count, len(part))))
        return pixels.to(module.device).float() / 255


def worth_drawing(trainer: L.Trainer, step: int) -> bool:
    """Whether the epoch that ends after ``step`` steps is the last, or passed another hundred."""
    if epoch_of(trainer) == trainer.max_epochs or step == trainer.max_steps:
        return True
    steps = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
    return step // _STEPS > (step - steps) // _STEPS


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share that ``count`` images were found to have.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count)
    half *= math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half


def _grid(pictures: Tensor, scale: int) -> Tensor:
    """(K, 1 or 3, H, W) side by side, each from its darkest to its brightest, ``scale`` times as large.

    Eight in a row, each in a frame of one black pixel: (3, height, width) of the whole, in 0…1. As
    ``torchvision.utils.make_grid``, whose import takes a second.
    """
    low, high = pictures.amin((1, 2, 3), True), pictures.amax((1, 2, 3), True)
    pictures = ((pictures - low) / (high - low).clamp(min=1e-5)).expand(-1, 3, -1, -1)
    if len(pictures) > 1:
        framed = F.pad(
            pictures, (1, 0, 1, 0)
        )  # left and above; right of all and below all is added last
        columns = min(8, len(framed))
        rows = -(-len(framed) // columns)
        framed = F.pad(framed, (0, 0, 0, 0, 0, 0, 0, rows * columns - len(framed)))
        in_rows = framed.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4)
        whole = F.pad(in_rows.flatten(3).flatten(1, 2), (0, 1, 0, 1))
    else:
        whole = pictures[0]
    return whole.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def _add_histogram(board: Any, tag: str, values: Tensor | None, step: int) -> None:
    # beyond 1e20 lie none of its buckets, and an empty histogram is an error
    if values is not None and values.numel() and bool(values.abs().max() < 1e20):
        board.add_histogram(tag, values.detach().float(), step)


def _add_graph(board: Any, module: Classifier, image: Tensor) -> None:
    """The network of torch's own layers, whose names a reader knows."""
    network = module.network
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the tracer that the writer needs is on its way out
        try:
            with left_as_found(network):
                replace_layers(network, "native").eval()
                # not network.float(): the ranks' hooks on its parameters would be gone
                dtype = next(network.parameters(), image).dtype
                board.add_graph(network, module.normalise(image).to(dtype))
        except Exception as error:  # what it says of networks that it cannot follow is of any kind
            log.warning("diagnostics: no graph of this network: %s", str(error).splitlines()[0])
