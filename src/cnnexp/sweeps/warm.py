"""What the warm server of a launcher imports, once for all jobs that are forked from it.

Importing these touches neither a device nor a pool of threads, which a fork would not take along.
"""

from __future__ import annotations

import cnnexp.config.build
import cnnexp.data
import cnnexp.sweeps.ranks
import cnnexp.sweeps.worker
import cnnexp.training

__all__: list[str] = []

# what they import only when a training begins
import lightning.pytorch.loggers
import matplotlib.figure
import tensorboard.summary
import torch.utils.tensorboard
import torchvision.utils
