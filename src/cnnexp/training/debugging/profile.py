"""``debug=profile``: where the time and the memory of a training step go, by layer and by operator."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function, schedule
from torch.utils.hooks import RemovableHandle

from cnnexp.nn.fuse_linears import in_runs, runs_in
from cnnexp.nn.linear import LinearAct
from cnnexp.training.debugging.layer_table import (
    PREFIX,
    costs_by_layer,
    layer_table,
    operator_table,
)

log = logging.getLogger(__name__)

WARM_UP, MEASURED = 5, 10  # steps
TRACE, LAYERS, OPERATORS = "trace.json.gz", "layers.txt", "operators.txt"


class LayerProfile(Callback):
    """Profile ten steps by torch's profiler, and write a trace and two tables.

    Args:
        folder: Where trace.json.gz (for ui.perfetto.dev or chrome://tracing), layers.txt and operators.txt
            go.

    Attributes:
        steps: How many steps were measured.
    """

    at_each_step = True

    name = "profile"

    def __init__(self, folder: Path) -> None:
        self._folder, self.steps = folder, 0
        self._profiler: profile | None = None
        self._hooks: list[RemovableHandle] = []
        self._blocks: list[LinearAct] = []

    @property
    def passed(self) -> bool:
        """Whether there was a step to measure."""
        return self.steps > 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Name the layers, and start the profiler."""
        network = getattr(pl_module, "network", pl_module)
        self._name_layers(network)
        activities = [ProfilerActivity.CPU]
        if trainer.strategy.root_device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profiler = profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=WARM_UP, active=MEASURED, repeat=1),
            on_trace_ready=self._write,
            profile_memory=True,
            acc_events=True,
        )
        self._profiler.start()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the step."""
        if self._profiler is not None:
            self.steps = min(MEASURED, max(0, batch_idx + 1 - WARM_UP))
            self._profiler.step()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the profiler, which writes what it has if it did not get to its end."""
        self._stop()
        if not self.passed:
            log.warning(
                "debug=profile: nothing was measured: it takes more than %d steps, of which %d warm up",
                WARM_UP,
                WARM_UP,
            )

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Stop the profiler."""
        self._stop()

    def _stop(self) -> None:
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        for layer in self._blocks:
            vars(layer).pop("block", None)
        self._blocks.clear()

    def _name_layers(self, network: nn.Module) -> None:
        """Let the forward of each layer without parts be a range of the trace, that of a run's layers one."""
        firsts, within = {run.layers[0] for run in runs_in(network)}, in_runs(network)
        for name, layer in network.named_modules():
            if any(True for _ in layer.children()) or layer in within:
                continue
            before, after = _range(f"{PREFIX}{name} ({type(layer).__name__})")
            if isinstance(layer, LinearAct) and layer in firsts:
                self._blocks.append(layer)
                layer.block = _within(before, layer.block, after)
                continue
            self._hooks.append(layer.register_forward_pre_hook(before))
            self._hooks.append(layer.register_forward_hook(after, always_call=True))

    def _write(self, profiler: profile) -> None:
        """Write what was measured."""
        if not self.steps:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self._folder / TRACE))
        layers = layer_table(costs_by_layer(profiler.events() or ()), self.steps)
        (self._folder / LAYERS).write_text(layers + "\n", encoding="utf-8")
        (self._folder / OPERATORS).write_text(operator_table(profiler) + "\n", encoding="utf-8")
        log.info("debug=profile: a step, the mean of %d\n%s", self.steps, layers)
        log.info(
            "profile in %s: %s, %s, and %s for ui.perfetto.dev",
            self._folder,
            LAYERS,
            OPERATORS,
            TRACE,
        )

    def result(self) -> dict[str, object]:
        """What result.json says of it."""
        return {"name": self.name, "passed": self.passed, "steps": self.steps}


def _within(
    before: Callable[..., None], call: Callable[..., Any], after: Callable[..., None]
) -> Callable[..., Any]:
    """``call`` between such hooks."""

    def called(*arguments: Any) -> Any:
        before(None, arguments)
        try:
            return call(*arguments)
        finally:
            after(None, arguments, None)

    return called


def _range(name: str) -> tuple[Callable[..., None], Callable[..., None]]:
    """Hooks that begin and end a range ``name``; they may be entered more than once."""
    running: list[record_function] = []

    def before(_layer: nn.Module, _inputs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        running.append(record_function(name))
        running[-1].__enter__()

    def after(_layer: nn.Module, _inputs: Any, _output: Any) -> None:
        if running:
            running.pop().__exit__(None, None, None)

    return before, after
