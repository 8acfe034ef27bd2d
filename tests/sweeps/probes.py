"""Callbacks that jobs of tests take along: they note what they see, or bring the job down."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback


class Note(Callback):
    """Note what the environment was, and from when to when the training ran."""

    def __init__(self, file: str) -> None:
        self._file = Path(file)
        self._seen = {
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "cuda was asked for": torch.cuda.is_initialized(),
            "threads": torch.get_num_threads(),
            "began": time.monotonic(),
        }

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._seen["ended"] = time.monotonic()
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(self._seen) + "\n")


class Fall(Callback):
    """End the job in the middle, if ``how`` is not none: by an error, or a signal to itself."""

    def __init__(self, how: str) -> None:
        self._how = how

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any, **options: Any) -> None:
        if trainer.global_step == 2 and self._how == "error":
            raise ValueError("it cannot go on")
        if trainer.global_step == 2 and self._how != "none":
            print("last words", flush=True)
            os.kill(os.getpid(), getattr(signal, self._how))


class Tear(Callback):
    """End the process in the middle of a status that is written."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        log = next(h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler))
        Path(log.baseFilename).with_name("status.json").write_text('{"state": "run')
        os.kill(os.getpid(), signal.SIGKILL)


class Deaf(Callback):
    """Take so many seconds for a batch, and hear no signal."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any, **options: Any) -> None:
        time.sleep(self._seconds)


class Wait(Callback):
    """Take so many seconds for a batch."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any, **options: Any) -> None:
        time.sleep(self._seconds)
