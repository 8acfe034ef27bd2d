"""What the warm server of a launcher imports, once for all jobs that are forked from it.

Importing these touches neither a device nor a pool of threads, which a fork would not take along.
"""

from __future__ import annotations

import gc
import importlib

__all__: list[str] = []

for _name in (
    "cnnexp.config.build",
    "cnnexp.execution.ranks",
    "cnnexp.execution.worker",
    # what these import only when a training begins
    "lightning.pytorch.loggers",
    "matplotlib.figure",
    "sklearn.datasets",
    "sklearn.model_selection",
    "tensorboard.summary",
    "torch.utils.tensorboard",
    "torchvision.utils",
):
    importlib.import_module(_name)

gc.freeze()  # what is here stays: a fork that collected it would copy its pages
