"""The network of a run folder, which may come from a stranger.

Nothing in the folder is executed, and nothing outside it is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnexp.config.build import build_job
from cnnexp.config.errors import ConfigError
from cnnexp.config.resumption import run_identity, saved_config
from cnnexp.data import ImageSet, LabelledImages
from cnnexp.runs import RunFolder
from cnnexp.runs.metrics_table import Metrics
from cnnexp.training import Classifier, make_classifier, read_own_checkpoint
from cnnexp.training.epochs import epoch_of_weights
from cnnexp.tuning import pin_algorithms

_MOST_PIXELS = 1 << 26  # the most pixels of one image: 8,192 × 8,192
_MOST_CLASSES = 1 << 20
_NO_CLASSIFIERS = ("torchvision.models.segmentation.", "torchvision.models.detection.")


class TrainedNetworkError(RuntimeError):
    """A run folder has no network, or none that fits its config."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A network ready to use.

    Attributes:
        classifier: The network in evaluation mode, on the CPU; takes images (N, C, H, W) in 0…1.
        dataset: The data set that it was trained on, for example ``"mnist"``.
        classes: The name of each class, or of each label or number.
        shape: (C, H, W) of its images.
        folder: The run folder.
        checkpoint: ``best.ckpt`` or ``last.ckpt``.
        epoch: The epoch of the weights, counted from 1.
        trained_weights: Where the weights are an average (EMA, SWA, schedule-free), the weights that were
            trained, by their names in the classifier; else None.
        config: The run's config.
        targets: ``classes``, ``labels`` or ``numbers``: what the outputs are.
    """

    classifier: Classifier
    dataset: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    folder: RunFolder
    checkpoint: str
    epoch: int
    trained_weights: Mapping[str, Tensor] | None
    config: Mapping[str, Any]
    targets: str = "classes"

    def require_classes(self, what: str) -> None:
        """Make sure that it is a classifier.

        Raises:
            ConfigError: It gives labels or numbers, which ``what`` is not made for.
        """
        if self.targets != "classes":
            raise ConfigError(
                f"{self.folder}: gives {self.targets}, not one class an image, which {what} needs; "
                f"export it, or use cnnexp.load_run"
            )

    @property
    def network(self) -> nn.Module:
        """The network itself, in evaluation mode, on the CPU; takes images that ``classifier`` normalises."""
        return self.classifier.network

    @property
    def metrics(self) -> Metrics:
        """The metrics of the run, a row an epoch."""
        return Metrics(self.folder.read_metrics())

    @property
    def result(self) -> Mapping[str, Any]:
        """The final figures of the run, as in result.json; empty where it is not done."""
        return self.folder.read_result()


def load_trained(
    folder: RunFolder,
    checkpoint: str | None = None,
    *,
    backward: str = "native",
    extra_targets: Sequence[str] = (),
) -> TrainedNetwork:
    """The network of the run in ``folder``.

    Args:
        folder: The run folder, which need not be trusted.
        checkpoint: ``"best"`` or ``"last"``; None for best.ckpt, or last.ckpt where there is no best.
        backward: The algorithm of its layers; ``"auto"`` for the one that the run chose.
        extra_targets: Prefixes of ``_target_`` allowed beyond cnnexp's own list.

    Raises:
        ConfigError: config.yaml is not a run's config, or names a target that is not allowed.
        CheckpointError: The checkpoint is missing, damaged, or not written by cnnexp.
        TrainedNetworkError: The folder does not say what the network was trained on, or the checkpoint
            is not of the config's network.
    """
    config = saved_config(folder)
    images = _stand_in(folder)
    job = build_job(for_inference(config, backward), extra_targets)
    name, content, size = _checkpoint(folder, config, checkpoint)
    state = content["state_dict"]
    try:
        with torch.device("meta"):  # compare the shapes before any memory is allocated
            expected = make_classifier(job, images).state_dict()
        _fits(folder.checkpoints / name, expected, state, size)
        classifier = make_classifier(job, images)
        if job.backward_layers is not None:
            pin_algorithms(classifier.network, job.backward_layers)
        classifier.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, TrainedNetworkError):
            raise
        reason = " ".join(str(error).split())
        raise TrainedNetworkError(f"{folder}: the network cannot be made: {reason}") from error
    return TrainedNetwork(
        classifier=classifier.eval().requires_grad_(False),
        dataset=images.name,
        classes=images.classes,
        shape=images.train.shape,
        folder=folder,
        checkpoint=name,
        epoch=_epoch(content, name),
        trained_weights=_trained_weights(content, state),
        config=config,
        targets=images.targets,
    )


def for_inference(config: Mapping[str, Any], backward: str) -> dict[str, Any]:
    """``config`` changed so that any machine can build it, without a GPU and without fetching weights.

    Raises:
        ConfigError: The network is one of those torchvision models that fetch weights unasked.
    """
    parts = {**config, "backward": _algorithm(config, backward)}
    accelerator, model = config.get("accelerator"), config.get("model")
    if isinstance(accelerator, Mapping):
        parts["accelerator"] = {**accelerator, "name": "cpu", "devices": 1}
    if isinstance(model, Mapping):
        target = str(model.get("_target_"))
        if target.startswith(_NO_CLASSIFIERS):
            raise ConfigError(f"model._target_={target}: is no classifier of torchvision.models")
        # all weights are in the checkpoint
        parts["model"] = {k: None if k.startswith("weights") else v for k, v in model.items()}
    optimizer = {"_target_": "torch.optim.SGD", "lr": 0.1}  # the run's own may need an extra
    for_training = {
        "init_from": {},
        "loss": {},
        "metrics": {},
        "scheduler": {"_target_": None},
        "regularization": {},
        "callbacks": {},
    }
    return {**parts, "optimizer": optimizer, **for_training}


def _algorithm(config: Mapping[str, Any], backward: str) -> dict[str, Any]:
    node = config.get("backward")
    return dict(node) if backward == "auto" and isinstance(node, Mapping) else {"name": backward}


def _checkpoint(
    folder: RunFolder, config: Mapping[str, Any], which: str | None
) -> tuple[str, dict[str, Any], int]:
    if which not in (None, "best", "last"):
        raise ConfigError(f"checkpoint={which}: must be one of best, last")
    files = {"best": folder.best_checkpoint, "last": folder.last_checkpoint}
    if which is None:
        which = "best" if files["best"].exists() or not files["last"].exists() else "last"
    file = files[which]
    content = read_own_checkpoint(file, folder.path, run_identity(config))
    return file.name, content, file.stat().st_size


def _stand_in(folder: RunFolder) -> ImageSet:
    """An image set like that of the run, but without images: a network needs only shape and classes."""
    try:
        data = folder.read_provenance().get("dataset")
        if not isinstance(data, dict):
            raise ValueError("it has no part 'dataset'")
        shape, classes = data["shape"], data["classes"]
        if len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
            raise ValueError(f"shape is {shape}, not [channels, height, width]")
        targets = str(data.get("targets", "classes"))
        least = 2 if targets == "classes" else 1
        if math.prod(shape) > _MOST_PIXELS or not least <= len(classes) <= _MOST_CLASSES:
            raise ValueError(f"images of {shape} in {len(classes)} classes are too large")
        if not all(isinstance(name, str) for name in classes):
            raise ValueError("classes are no names")
    except (ValueError, TypeError, KeyError, OSError, AttributeError) as error:
        raise TrainedNetworkError(
            f"{folder.provenance}: does not say what the run was trained on: {error}"
        ) from error
    empty = LabelledImages(torch.empty(0, *shape, dtype=torch.uint8), torch.empty(0).long())
    nothing = (0.0,) * shape[0]  # mean and standard deviation are in the checkpoint
    return ImageSet(
        _printable(str(data.get("name"))),
        empty,
        empty,
        tuple(map(_printable, classes)),
        nothing,
        nothing,
        str(data.get("checksum")),
        targets=targets if targets in ("labels", "numbers") else "classes",
    )


def _printable(name: str) -> str:
    """``name`` with characters escaped that would control a terminal."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()


def _epoch(content: Mapping[str, Any], name: str) -> int:
    epoch = epoch_of_weights(content)
    if epoch is None:
        raise TrainedNetworkError(f"{name}: does not say of which epoch it is")
    return epoch


def _fits(file: Any, expected: Mapping[str, Tensor], state: Mapping[str, Any], size: int) -> None:
    wrong = set(expected) ^ set(state)
    wrong |= {
        name
        for name in set(expected) & set(state)
        if isinstance(expected[name], Tensor)  # another value is the extra state of a layer
        and (not isinstance(state[name], Tensor) or expected[name].shape != state[name].shape)
    }
    if wrong:
        names = ", ".join(sorted(map(str, wrong))[:3])
        raise TrainedNetworkError(f"{file}: is not of the network in config.yaml: {names} differ")
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    if sum(value.numel() * value.element_size() for value in tensors) > size:
        raise TrainedNetworkError(f"{file}: holds tensors that are larger than the file")


def _trained_weights(
    content: Mapping[str, Any], state: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    own = content.get("training_weights")
    if not isinstance(own, dict) or not own:
        return None
    for name, value in own.items():
        if not isinstance(value, Tensor) or name not in state or value.shape != state[name].shape:
            raise TrainedNetworkError(f"training_weights: {name} is not of the network")
    return own
