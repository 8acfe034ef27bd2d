"""Make Lightning's own callbacks at home in a run: where their files go, and what a resumption needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    Callback,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    ModelPruning,
    SpikeDetection,
)
from torch import Tensor, nn
from torch.nn.utils import prune

from cnnexp.runs import RunFolder
from cnnexp.training.lightning_internals import rewind_on_own_memory

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def at_home(callbacks: Sequence[Callback], folder: RunFolder) -> list[Callback]:
    """``callbacks``, and what some of them need beside them, for a run in ``folder``."""
    beside: list[Callback] = []
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            # not beside last.ckpt, which a callback with save_last would overwrite
            callback.dirpath = str((folder.checkpoints / "callbacks").absolute())
        elif isinstance(callback, SpikeDetection):
            _mend(callback)
        elif isinstance(callback, ModelPruning):
            rewind_on_own_memory(callback)
            beside.append(_PruningMasks())
        elif isinstance(callback, GradientAccumulationScheduler):
            beside.append(_ResumedAccumulation(callback))
        elif isinstance(callback, BaseFinetuning):
            beside.append(_ResumedFinetuning())
    return [*callbacks, *beside]


def needs_plain_kernels(callbacks: Sequence[Callback]) -> bool:
    """Whether a callback takes kernels for plain memory, as torch's pruning does."""
    return any(isinstance(callback, ModelPruning) for callback in callbacks)


def _mend(callback: SpikeDetection) -> None:
    """Let it resume: Lightning 2.6 keeps no mean, and looks for it under another name."""
    for metric in callback.running_mean.modules():
        if hasattr(metric, "persistent"):
            metric.persistent(True)  # pyright: ignore[reportCallIssue]
    callback.running = callback.running_mean  # pyright: ignore[reportAttributeAccessIssue]
    path = callback.exclude_batches_path
    if path is not None:  # it makes the folder of the file, which "" is not
        callback.exclude_batches_path = str(Path(path).absolute())


class _ResumedAccumulation(Callback):
    """Tell the Trainer how many batches a step is by, where it resumes in the middle of an epoch."""

    def __init__(self, scheduler: GradientAccumulationScheduler) -> None:
        self._scheduler = scheduler

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """At the start of an epoch the scheduler does it itself."""
        count = self._scheduler.get_accumulate_grad_batches(trainer.current_epoch)
        trainer.accumulate_grad_batches = count


class _ResumedFinetuning(Callback):
    """Let train, where a training resumes, what had been unfrozen before: Lightning only says so once."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """All that the optimiser has trains."""
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        trained = {id(parameter) for group in groups for parameter in group["params"]}
        for module in pl_module.modules():
            own = [p for p in module.parameters(recurse=False) if id(p) in trained]
            for parameter in own:
                parameter.requires_grad_(True)
            if own and isinstance(module, _BATCH_NORMS):
                module.track_running_stats = True


class _PruningMasks(Callback):
    """Keep the masks of pruned weights in checkpoints, and what these weights are without them."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Tensor]] = {}

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add both by the name of the weight; ``state_dict`` has their product."""
        checkpoint["pruned"] = {
            f"{layer}.{name}": {
                "mask": getattr(module, f"{name}_mask").clone(),
                "weight": getattr(module, f"{name}_orig").detach().clone(),
            }
            for layer, module in pl_module.named_modules()
            for name in _pruned(module)
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take them from the checkpoint of the training that is resumed."""
        self._kept = checkpoint.get("pruned", {})

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prune as that training had, once the optimiser knows the weights in their order."""
        for place, kept in self._kept.items():
            layer, _, name = place.rpartition(".")
            module = pl_module.get_submodule(layer)
            weight = getattr(module, name)
            weight.data.copy_(kept["weight"])
            prune.custom_from_mask(module, name, kept["mask"].to(weight.device))
        self._kept = {}


def _pruned(module: nn.Module) -> list[str]:
    """The names of the parameters of ``module`` itself that are pruned."""
    kept = module.named_parameters(recurse=False, remove_duplicate=False)
    names = [name.removesuffix("_orig") for name, _ in kept if name.endswith("_orig")]
    masks = dict(module.named_buffers(recurse=False, remove_duplicate=False))
    return [name for name in names if f"{name}_mask" in masks]  # so torch.nn.utils.prune names them
