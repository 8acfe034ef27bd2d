"""Whole trainings on the device: a resume with the same bits, one rank of ddp and of fsdp.

On the bundled digits, which need no network; on MNIST where $CNNEXP_DATA names the folder that holds it.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from torch import Tensor

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.runs import RunFolder
from cnnexp.training import Parallelism, TrainingJob, TrainingStopped, read_checkpoint, run_training
from gpu_parts.rows import NeedsCudaError, Rows

__all__ = ["overrides_for", "run_ddp", "run_fsdp", "run_resume"]

# What has no other order of sums, so that a second training gives the same bits.
_FIXED = "+trainer.deterministic=true"
_RESUMED = (
    ("fused", _FIXED),
    ("direct", _FIXED),
    ("fused", _FIXED, "accelerator.precision=bf16-mixed"),
    ("fused", _FIXED, "accelerator.precision=16-mixed"),
    ("fused", _FIXED, "model.dropout=0.5", "regularization=ema", "scheduler=onecycle"),
    ("auto",),
)


def overrides_for(rows: Rows) -> list[str]:
    """The config of a small training on the device."""
    data = os.environ.get("CNNEXP_DATA")
    real = data is not None and (Path(data) / "MNIST" / "raw").is_dir() and rows.on_gpu
    small = ["data=mnist", "data.download=false"] if real else ["data=digits"]
    small += ["data.val_size=100", "logger=csv", "diagnostics=off", "trainer.max_epochs=2"]
    if rows.on_gpu:
        return [*small, "data.train_size=1024", "data.batch_size=64", "accelerator=gpu"]
    narrow = ["model.channels=[4,8]", "data.train_size=64", "data.batch_size=16"]
    return [*small, *narrow, "accelerator=cpu"]


class _StopAfter(Callback):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_train_batch_end(self, *_args: Any, **_kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise TrainingStopped(143)


def _job(rows: Rows, *settings: str, stop_after: int | None = None) -> TrainingJob:
    made = build_job(plain_config(Composer("train").compose([*overrides_for(rows), *settings])))
    if stop_after is not None:
        own = made.callbacks
        made.callbacks = lambda: [*own(), _StopAfter(stop_after)]
    return made


def _train(job: TrainingJob, folder: Path, resume: bool = False) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return run_training(job, RunFolder(folder), resume=resume)


def run_resume(rows: Rows) -> None:
    """A training, and one that is stopped in its second epoch and resumed: the same bits."""
    _quiet()
    for backward, *settings in _RESUMED if rows.on_gpu else _RESUMED[:1]:
        way = " ".join((backward, *settings))
        with rows.trying("run and resume", way) as row, tempfile.TemporaryDirectory() as place:
            make = partial(_job, rows, f"backward={backward}", *settings)
            epoch = 16 if rows.on_gpu else 4
            whole, broken = Path(place) / "whole", Path(place) / "broken"
            start = time.perf_counter()
            result = _train(make(), whole)
            seconds = time.perf_counter() - start
            every = "checkpoint.every_n_steps=3"
            try:
                _train(make(every, stop_after=epoch + epoch // 2 + 1), broken)
            except TrainingStopped:
                pass
            else:
                raise RuntimeError("the training was not stopped")
            _train(make(every), broken, resume=True)
            different = _differences(_last(whole), _last(broken))
            row |= {"value": len(different), "unit": "tensors that differ"}
            row["note"] = (
                f"test/acc {result['test/acc']}, {result['images_per_second']} images/s, "
                f"{seconds:.1f} s; {', '.join(different[:5])}"
            )
            if different and _FIXED in settings:
                row["state"] = "failed"


def _last(folder: Path) -> dict[str, Any]:
    return read_checkpoint(RunFolder(folder).last_checkpoint)


def _differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of the weights and states of the optimiser that are not the same to the bit."""
    if not name:
        parts = ("state_dict", "optimizer_states")
        return [d for part in parts for d in _differences(one[part], other[part], part)]
    if isinstance(one, Tensor):
        return [] if torch.equal(one, other) else [name]
    if isinstance(one, dict):
        return [d for key in one for d in _differences(one[key], other[key], f"{name}.{key}")]
    if isinstance(one, (list, tuple)):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in _differences(a, b, f"{name}.{i}")]
    return []


def run_ddp(rows: Rows) -> None:
    """One rank, over nccl; on a CPU over gloo."""
    backend = "nccl" if rows.on_gpu else "gloo"
    _one_rank(rows, f"ddp, one rank over {backend}",
              lambda: DDPStrategy(process_group_backend=backend, gradient_as_bucket_view=True))  # fmt: skip


def run_fsdp(rows: Rows) -> None:
    """One rank, with weights in plain memory.

    FSDP of one rank, which shards nothing, scrambles the gradient of weights in channels_last memory; of
    several it does not (torch 2.11 and 2.14, with torch's own layers). A config of one device has none.
    """
    if not rows.on_gpu:
        with rows.trying("fsdp, one rank"):
            raise NeedsCudaError("Lightning's FSDP trains on GPUs")
        return
    settings = ("accelerator.channels_last=false",)
    _one_rank(rows, "fsdp, one rank", lambda: FSDPStrategy(state_dict_type="full"), *settings)


def _one_rank(rows: Rows, what: str, strategy: Callable[[], Any], *others: str) -> None:
    """Train as one process of several would, and compare with a training that knows of none."""
    _quiet()
    settings = ["backward=fused", _FIXED, *others]
    with tempfile.TemporaryDirectory() as place:
        alone = Path(place) / "alone"
        with rows.trying(what, "the same without it") as row:
            result = _train(_job(rows, *settings), alone)
            row["note"] = f"test/acc {result['test/acc']}, {result['images_per_second']} images/s"
        with rows.trying(what, "as a rank") as row:
            job = _job(rows, *settings)
            job.parallel = Parallelism(strategy, 1, 1, "cpu:gloo,cuda:nccl")
            result = _train(job, Path(place) / "rank")
            row["note"] = f"test/acc {result['test/acc']}, {result['images_per_second']} images/s"
            one, other = (_last(f)["state_dict"] for f in (alone, Path(place) / "rank"))
            worst = max((one[k] - other[k]).abs().max().item() for k in one)
            row |= {"value": worst, "unit": "largest difference of a weight"}
            if not worst < 1e-4:
                row["state"] = "failed"
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _quiet() -> None:
    logging.getLogger("cnnexp").setLevel(logging.WARNING)
