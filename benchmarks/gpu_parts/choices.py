"""Every choice of the config groups trains an epoch on the device."""

from __future__ import annotations

import logging
import math
import tempfile
from pathlib import Path

from cnnexp.config import Composer, ConfigError, conf_dir, plain_config
from cnnexp.config.build import build_job
from cnnexp.runs import RunFolder
from cnnexp.training import run_training
from gpu_parts.rows import NeedsPackageError, Rows
from gpu_parts.trainings import overrides_for

__all__ = ["run"]

_GROUPS = ("backward", "regularization", "optimizer", "scheduler", "model", "diagnostics", "logger",
           "privacy")  # fmt: skip
_ELSE = ("accelerator.precision=bf16-mixed", "accelerator.precision=16-mixed",
         "accelerator.precision=64-true", "accelerator.channels_last=false")  # fmt: skip
_ON_CPU = ("accelerator.channels_last=false",)


def run(rows: Rows) -> None:
    """A row a choice; of those whose package is missing it says so."""
    logging.getLogger("cnnexp").setLevel(logging.ERROR)
    found = [
        f"{group}={file.stem}"
        for group in _GROUPS
        for file in sorted((conf_dir() / group).glob("*.yaml"))
    ]
    for choice in [*_ELSE, *found] if rows.on_gpu else _ON_CPU:
        with rows.trying("an epoch with", choice) as row, tempfile.TemporaryDirectory() as place:
            group = choice.partition("=")[0]
            short = {"data.train_size": "128", "trainer.max_epochs": "1", "data.batch_size": "32"}
            short |= {"+trainer.limit_test_batches": "1"}
            short |= {"backward": "fused"} if group != "backward" else {}
            given = [o for o in overrides_for(rows) if o.partition("=")[0] not in (group, *short)]
            if group == "model":
                given = [o for o in given if not o.startswith("model.")]
            settings = [*given, *(f"{key}={value}" for key, value in short.items()), choice]
            try:
                job = build_job(plain_config(Composer("train").compose(settings)))
            except ConfigError as error:
                if 'pip install "cnnexp[' in str(error):  # an extra
                    raise NeedsPackageError(str(error)) from error
                raise
            result = run_training(job, RunFolder(Path(place)))
            row |= {"value": result["train/loss"], "unit": "train/loss"}
            if not math.isfinite(result["test/loss"]):
                row |= {"state": "failed", "note": f"test/loss is {result['test/loss']}"}
