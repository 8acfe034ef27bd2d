"""A run that a program has in its hands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cnnexp.inference import TrainedNetwork, load_trained
from cnnexp.runs import RunFolder
from cnnexp.runs.metrics_table import Metrics

__all__ = ["Run"]


class Run:
    """One training and its folder, which every command takes as ``run=<folder>``.

    Args:
        folder: The run folder.
        load: Loads the network that it has trained.

    Attributes:
        folder: The path of the run folder.
    """

    def __init__(self, folder: RunFolder, load: Callable[[], TrainedNetwork]) -> None:
        self._folder, self._load = folder, load
        self.folder: Path = folder.path

    @cached_property
    def result(self) -> Mapping[str, Any]:
        """The final figures, as in result.json: ``test/acc``, ``val/acc``, ``train/loss``, ``epochs`` …."""
        return self._folder.read_result()

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The whole config that was trained by."""
        return self._folder.read_config()

    @cached_property
    def metrics(self) -> Metrics:
        """The metrics, a row an epoch."""
        return Metrics(self._folder.read_metrics())

    @cached_property
    def trained(self) -> TrainedNetwork:
        """The network of the best epoch by validation; ``.classifier`` takes images (N, C, H, W) in 0…1."""
        return self._load()

    @property
    def network(self) -> nn.Module:
        """The trained network itself, in evaluation mode, on the CPU; takes normalised images."""
        return self.trained.network

    def predict(self, images: Tensor) -> Tensor:
        """The probability of each class or label, or the numbers, (N, C), of images.

        Args:
            images: (N, C, H, W): floats in 0…1, or whole numbers in 0…255, as :func:`cnnexp.fit` takes them.
        """
        whole = not images.is_floating_point()
        output = self.trained.classifier(images / 255 if whole else images)
        if self.trained.targets == "numbers":
            return output
        return output.sigmoid() if self.trained.targets == "labels" else output.softmax(1)

    def __repr__(self) -> str:
        result, name = self.result, self._folder
        if not result:
            return f"Run {name}: {self._folder.read_status().get('state', 'not begun')}"
        parts = [
            f"{key} {result[key]:.4g}"
            for key in ("test/acc", "val/acc")
            if result.get(key) is not None
        ]
        epochs = result.get("epochs")
        return f"Run {name}: {', '.join(parts)} after {epochs} epoch{'s' if epochs != 1 else ''}"


def trained_in(folder: RunFolder, extra: tuple[str, ...], offers: ExitStack) -> TrainedNetwork:
    """The network of ``folder``, made while ``offers`` holds."""
    with offers:
        return load_trained(folder, extra_targets=extra)
