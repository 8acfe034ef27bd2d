"""Look at each step's loss and gradients before they reach the weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from cnnexp.runs import RunFolder
from cnnexp.runs.epochs import epoch_after
from cnnexp.training import non_finite
from cnnexp.training.classifier import Classifier
from cnnexp.training.epochs import epoch_of
from cnnexp.training.non_finite import Finding, NonFiniteError, OnNaN
from cnnexp.training.ranks import ALONE, Ranks

log = logging.getLogger(__name__)

_MOST_IN_A_ROW = 10
_ADVICE = (
    "The images and more are in {file}. Lower optimizer.lr, clip the gradients "
    "(regularization=clip_norm), or continue all the same with on_nan=skip or on_nan=lower_lr"
)
_IN_A_ROW = (
    f"{_MOST_IN_A_ROW} steps in a row were skipped; lower optimizer.lr, or try on_nan=lower_lr"
)
_OF_WEIGHTS = (
    "No checkpoint got them; lower optimizer.lr, clip the gradients, or try on_nan=lower_lr"
)


class NonFiniteGuard(Callback):
    """Stop the training, or leave the step out, when the loss or a gradient is infinite or NaN.

    On a CPU, and wherever steps may be skipped, each step is looked at before it is made. On other
    devices that would make the processor wait for every step, so the steps since the last look are
    looked at together, as often as scalars are logged, at the end of an epoch, and before a checkpoint
    is written. No checkpoint ever gets weights that are not finite.

    Under 16-mixed precision the gradients are left to the scaler, which skips steps by itself.

    Args:
        folder: The run folder; a finding is written to its nonfinite.json.
        policy: ``stop`` and ``lower_lr`` raise; ``skip`` leaves the step out and continues, up to ten
            times in a row. A step left out counts as a step of the schedule.
        members: (epoch, batch) → indices of its images, both counted from 0.
        every: Steps between two looks; None for 1 where a look costs nothing, else as often as
            scalars are logged. Always 1 with ``skip``.
        ranks: The processes of the training: what one of them finds, all have found.

    Attributes:
        skipped: Steps left out so far.

    Raises:
        NonFiniteError: In its hooks.
    """

    at_each_step = True

    def __init__(
        self,
        folder: RunFolder,
        policy: OnNaN,
        members: Callable[[int, int], Tensor],
        every: int | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._ranks = ranks
        self._every = 1 if policy == "skip" else every
        self._folder, self._policy, self._members = folder, policy, members
        self._losses: list[Tensor] = []
        self._seen: list[tuple[int, int, int, Tensor, Tensor]] = []
        self._batch: tuple[Tensor, Tensor] | None = None
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self.skipped, self._in_a_row = 0, 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep what a skipped batch would leave in running statistics, and the batch."""
        self._batch = batch
        if self._policy == "skip" and not self._losses:  # the first batch of the step
            self._buffers = [(b, b.clone()) for b in pl_module.buffers()]

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Keep the loss."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Look, or keep what there is to look at."""
        assert isinstance(pl_module, Classifier)
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        every, on_cpu = self._every, pl_module.device.type == "cpu"
        if every is None:
            every = 1 if on_cpu else getattr(trainer, "log_every_n_steps", 1)
        alone = on_cpu and every == 1 and self._ranks.count == 1
        if alone and non_finite.surely_finite(self._losses, [] if scaled else _used(optimizer)):
            self._losses, self._in_a_row = [], 0
            return
        flags = non_finite.finite_flags(self._losses, pl_module.network, not scaled)
        batch_idx = trainer.fit_loop.epoch_loop.batch_idx
        losses, self._losses = torch.stack(self._losses), []
        self._seen.append((trainer.current_epoch, batch_idx, trainer.global_step, flags, losses))
        if len(self._seen) >= every:
            self._look(trainer, pl_module, at_once=len(self._seen) == 1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the steps since the last look."""
        self._look(trainer, pl_module)

    def before_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the steps since the last look, and at the weights: a step may have made them infinite."""
        self._look(trainer, pl_module)
        assert isinstance(pl_module, Classifier)
        layer = non_finite.first_bad_weight(pl_module.network)
        if layer:
            epoch = epoch_of(trainer)
            self._raise(
                Finding(trainer.global_step, epoch, what="weights", layer=layer), _OF_WEIGHTS
            )

    def _look(
        self, trainer: L.Trainer, module: L.LightningModule, *, at_once: bool = False
    ) -> None:
        """Look at what was seen; ``at_once`` if that is the step about to be made."""
        assert isinstance(module, Classifier)
        seen, self._seen = self._seen, []
        if not seen:
            return
        flags = self._ranks.all_true(torch.cat([flags for *_, flags, _ in seen]))
        each = flags.split([len(flags) for *_, flags, _ in seen])
        seen = [(*s[:3], f, s[4]) for s, f in zip(seen, each, strict=True)]
        all_fine = torch.stack([flags.all() for *_, flags, _ in seen]).tolist()
        if all(all_fine):
            self._in_a_row = 0
            return
        first = seen[all_fine.index(False)]
        finding = self._finding(trainer, module, first, at_once=at_once)
        if self._policy != "skip":
            self._raise(finding)
        self._skip(module, finding)

    def _skip(self, module: Classifier, finding: Finding) -> None:
        self._in_a_row += 1
        if self._in_a_row > _MOST_IN_A_ROW:
            self._raise(finding, _IN_A_ROW)
        self.skipped += 1
        log.warning("%s; skipped", finding)
        for parameter in module.network.parameters():
            parameter.grad = None  # which optimisers pass over
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)

    def _finding(
        self,
        trainer: L.Trainer,
        module: Classifier,
        seen: tuple[int, int, int, Tensor, Tensor],
        *,
        at_once: bool,
    ) -> Finding:
        epoch, batch_idx, step, flags, losses = seen
        losses = self._ranks.total(losses) / self._ranks.count
        loss_fine, *_ = fine = flags.tolist()
        layers = non_finite.bad_layers(fine, module.network)
        layer = layers[0] if layers else ""
        if not loss_fine:
            layer = self._first_bad_output(trainer, module, batch_idx) if at_once else ""
        batches = range(batch_idx - len(losses) + 1, batch_idx + 1)
        return Finding(
            step=step + 1,
            epoch=epoch_after(epoch),
            batches=[b + 1 for b in batches],
            what="gradient" if loss_fine else "loss",
            layer=layer,
            losses=[loss if math.isfinite(loss) else str(loss) for loss in losses.tolist()],
            layers=layers,
            learning_rates=[float(group["lr"]) for group in trainer.optimizers[0].param_groups],
            images=torch.cat([self._members(epoch, b) for b in batches]).tolist(),
        )

    def _first_bad_output(self, trainer: L.Trainer, module: Classifier, batch_idx: int) -> str:
        if self._policy == "skip" or self._batch is None:  # a second pass would draw random numbers
            return ""
        images, _ = module.vary(*self._batch, batch_idx)
        with trainer.precision_plugin.forward_context():
            return non_finite.first_bad_output(module.network, module.normalise(images))

    def _raise(self, finding: Finding, advice: str = _ADVICE) -> None:
        file = self._folder.write_non_finite(finding.as_dict())
        raise NonFiniteError(finding, advice.format(file=file))

    def state_dict(self) -> dict[str, Any]:
        """How many steps were left out."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]


def _used(optimizer: Optimizer) -> list[Tensor]:
    """The gradients that the step is by; if one is not finite, those of the whole network are looked at."""
    parameters = (each for group in optimizer.param_groups for each in group["params"])
    return [each.grad for each in parameters if each.grad is not None]
