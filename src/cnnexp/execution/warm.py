"""The modules that a launcher's warm server imports once for all jobs that are forked from it.

Their import uses neither a device nor a pool of threads, which a fork would not take along.
"""

from __future__ import annotations

import gc
import importlib

for _name in (
    "cnnexp.config.build",
    "cnnexp.execution.ranks",
    "cnnexp.execution.worker",
    # modules that the above import only when a training begins
    "lightning.pytorch.loggers",
    "matplotlib.figure",
    "sklearn.datasets",
    "sklearn.model_selection",
    "tensorboard.summary",
    "torch.utils.tensorboard",
    "torchvision.utils",
):
    importlib.import_module(_name)

gc.freeze()  # a fork whose garbage collector visited these objects would copy their pages
