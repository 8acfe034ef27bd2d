"""One step of the optimiser as Lightning's loop takes it, without what only some trainings need of it.

Around a step of a few milliseconds Lightning looks for profilers, ranks, accumulation and scales, calls every
hook of every callback, files each metric and looks for the end: a tenth of the step of a small network. What
is found here once for several steps, and called in each, are the hooks that somebody has written. Tried with
lightning 2.6.6; see lightning_internals.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from lightning.pytorch.loops.optimization.automatic import ClosureResult
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import Optimizer

from cnnexp.optim import Adam

__all__ = ["AROUND_A_BATCH", "ShortTurn", "is_written"]

_Hook = Callable[..., Any]


class ShortTurn:
    """A step with the counters, hooks and schedule of Lightning's own turn, after which no row is written.

    Public ways were looked at: ``Trainer`` has no argument that leaves out any of it, and a loop of one's own
    over the same parts would write other checkpoints.

    Args:
        loop: In the midst of an epoch.
    """

    def __init__(self, loop: _TrainingEpochLoop) -> None:
        trainer: Any = loop.trainer  # whose class says nothing of its data module
        module = trainer.lightning_module
        self._loop, self._trainer, self.module = loop, trainer, module
        self._plugin, self._device = trainer.precision_plugin, trainer.strategy.root_device
        self._now: dict[str, Any] = vars(module)  # where ``log`` looks for the hook that calls it
        self._hooks: dict[str, tuple[list[_Hook], _Hook | None]] = {}
        self._sets_none = self._clears_first = False
        self._optimizer = _Optimizer(trainer.optimizers[0], self._before_step)
        self._takes_number = "batch_idx" in loop._build_kwargs(OrderedDict(), None, 0)
        whose = trainer._data_connector._datahook_selector.get_instance
        self._before, self._transfer, self._after = (
            getattr(whose(each), each) for each in _OF_DATA
        )

    def begin(self, callbacks: Sequence[Callback]) -> None:
        """Find the hooks of the ``callbacks`` that take part in the next steps, in their order."""
        self._hooks = {name: _written(name, callbacks, self.module) for name in AROUND_A_BATCH}
        self._sets_none = _clears_plainly(self.module, self._trainer.optimizers[0])
        looked_at = any(self._hooks["on_before_zero_grad"])
        unread = not looked_at and not _reads_old_gradients(self.module)
        self._clears_first = self._sets_none and unread
        if self._optimizer.optimizer is not self._trainer.optimizers[0]:
            self._optimizer = _Optimizer(self._trainer.optimizers[0], self._before_step)

    @staticmethod
    def serves(loop: _TrainingEpochLoop, fetcher: _DataFetcher) -> bool:
        """Whether the training has nothing that only Lightning's own turn takes care of."""
        trainer: Any = loop.trainer
        plugin = trainer.precision_plugin
        return (
            type(trainer.strategy) is SingleDeviceStrategy
            and type(plugin) in (Precision, MixedPrecision)
            and getattr(plugin, "scaler", None) is None
            and isinstance(trainer.profiler, PassThroughProfiler)
            and trainer.accumulate_grad_batches == 1
            and len(trainer.optimizers) == 1
            and trainer.lightning_module.automatic_optimization
            and not loop.automatic_optimization._skip_backward
            and not trainer.fast_dev_run
            and not isinstance(fetcher, _DataLoaderIterDataFetcher)
        )

    def __call__(self, fetcher: _DataFetcher) -> None:
        """Take the next batch and make the step.

        Raises:
            StopIteration: There is none, or the module's ``on_train_batch_start`` returned −1.
        """
        loop, trainer, progress = self._loop, self._trainer, self._loop.batch_progress
        loop.val_loop.restarting = False
        batch, _, _ = next(fetcher)
        batch_idx = loop.batch_idx + 1
        progress.is_last_batch = fetcher.done
        batch = self._received(batch)
        progress.increment_ready()
        trainer._logger_connector.on_batch_start(batch)
        leave = self._call("on_train_batch_start", batch, batch_idx) == -1
        output: dict[str, Any] | None = None
        if leave:
            progress.increment_by(0, is_last_batch=True)
        else:
            progress.increment_started()
            output = self._step(batch, batch_idx)
        progress.increment_processed()
        loop.update_lr_schedulers("step", update_plateau_schedulers=False)
        if leave:
            loop.update_lr_schedulers("epoch", update_plateau_schedulers=False)
            raise StopIteration
        self._call("on_train_batch_end", output, batch, batch_idx)
        trainer._results.batch = trainer._results.batch_size = None
        progress.increment_completed()

    def _received(self, batch: Any) -> Any:
        """The batch on the device."""
        batch = self._before(self._plugin.convert_input(batch), 0)
        return self._after(self._transfer(batch, self._device, 0), 0)

    def _step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        trainer, module = self._trainer, self.module
        done = self._loop.automatic_optimization.optim_progress.optimizer
        outputs: list[dict[str, Any]] = []

        def closure() -> Tensor | None:
            outputs[:] = [self._gradients(batch, batch_idx)]
            return outputs[0].get("loss")

        done.step.increment_ready()
        step = (trainer.current_epoch, batch_idx, self._optimizer, closure)
        self._as("optimizer_step", module.optimizer_step, *step)
        done.step.increment_completed()
        if not outputs:
            raise MisconfigurationException(
                "the module's optimizer_step has not called the closure; call "
                "optimizer.step(closure=optimizer_closure) in it"
            )
        return outputs[0]

    @torch.enable_grad()
    def _gradients(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Forward and backward pass; what the step returns, with the loss by itself."""
        trainer, module = self._trainer, self.module
        given = (batch, batch_idx) if self._takes_number else (batch,)
        # the memory that gradients are in is the forward's then, and stays in the caches
        if self._clears_first:
            self._clear()
        with self._plugin.train_step_context():
            returned = self._as("training_step", module.training_step, *given)
        if isinstance(returned, Tensor):  # which Lightning's own way divides by one, and copies
            loss, output = returned, {"loss": returned.detach()}
        else:
            result = ClosureResult.from_training_step_output(returned)
            loss, output = result.closure_loss, {} if result.loss is None else result.asdict()
        cleared = self._loop.automatic_optimization.optim_progress.optimizer.zero_grad
        cleared.increment_ready()
        optimizer = trainer.optimizers[0]
        self._call("on_before_zero_grad", optimizer)
        cleared.increment_started()
        if self._sets_none:
            self._clear()
        else:
            now = (trainer.current_epoch, batch_idx, optimizer)
            self._as("optimizer_zero_grad", module.optimizer_zero_grad, *now)
        cleared.increment_completed()
        if loss is not None:
            self._call("on_before_backward", loss)
            self._as("backward", module.backward, loss)
            self._call("on_after_backward")
        return output

    def _clear(self) -> None:
        for group in self._trainer.optimizers[0].param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _before_step(self, optimizer: Optimizer) -> None:
        """Between the gradients and the step."""
        trainer, name = self._trainer, "configure_gradient_clipping"
        self._call("on_before_optimizer_step", optimizer)
        how = {
            "gradient_clip_val": trainer.gradient_clip_val,
            "gradient_clip_algorithm": trainer.gradient_clip_algorithm,
        }
        self._as(name, self.module.configure_gradient_clipping, optimizer, **how)

    def _call(self, name: str, *given: Any) -> Any:
        """Call all hooks of the name; what the module's returns."""
        of_callbacks, of_module = self._hooks[name]
        if of_callbacks:
            self._as(name, self._each, of_callbacks, *given)
        return None if of_module is None else self._as(name, of_module, *given)

    def _each(self, hooks: list[_Hook], *given: Any) -> None:
        for hook in hooks:
            hook(self._trainer, self.module, *given)

    def _as(self, name: str, hook: _Hook, *given: Any, **named: Any) -> Any:
        """Call ``hook``; what it logs is logged by ``name``."""
        before, self._now["_current_fx_name"] = self._now["_current_fx_name"], name
        returned = hook(*given, **named)
        self._now["_current_fx_name"] = before
        return returned


_OF_DATA = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
AROUND_A_BATCH = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def _written(
    name: str, callbacks: Sequence[Callback], module: L.LightningModule
) -> tuple[list[_Hook], _Hook | None]:
    """The hooks ``name`` of ``callbacks`` and of ``module`` that do something."""
    of_callbacks = [getattr(each, name) for each in callbacks if is_written(each, name, Callback)]
    of_module = is_written(module, name, L.LightningModule)
    return of_callbacks, getattr(module, name) if of_module else None


def is_written(owner: object, name: str, base: type) -> bool:
    """Whether the hook ``name`` of ``owner`` is not that of ``base``, which does nothing."""
    hook = getattr(owner, name)
    return callable(hook) and getattr(hook, "__func__", None) is not getattr(base, name)


def _clears_plainly(module: L.LightningModule, optimizer: Optimizer) -> bool:
    """Whether gradients are cleared as torch does by default, whose method looks for more."""
    cleared = getattr(optimizer.zero_grad, "__func__", None) in (
        Optimizer.zero_grad,
        Adam.zero_grad,
    )
    return cleared and not is_written(module, "optimizer_zero_grad", L.LightningModule)


def _reads_old_gradients(module: L.LightningModule) -> bool:
    """What the module says, or the class whose ``training_step`` it has; a step that says nothing may."""
    for each in (module, *type(module).__mro__):
        if "reads_old_gradients" in vars(each):
            return bool(vars(each)["reads_old_gradients"])
        if "training_step" in vars(each):
            return True
    return True


class _Optimizer(LightningOptimizer):
    """The optimiser as a module's ``optimizer_step`` gets it."""

    def __init__(self, optimizer: Optimizer, before_step: Callable[[Optimizer], None]) -> None:
        super().__init__(optimizer)
        self._before_step = before_step

    def step(self, closure: Callable[[], Any] | None = None, **options: Any) -> Any:
        """The step, by the gradients that ``closure`` computes each time that it is called."""

        def gradients() -> Any:
            loss = None if closure is None else closure()
            self._before_step(self._optimizer)
            return loss

        return self._optimizer.step(closure=gradients, **options)
