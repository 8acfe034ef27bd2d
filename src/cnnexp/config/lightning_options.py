"""Which of Lightning's options work in a run; the others, with what to use instead.

Every argument of ``lightning.Trainer`` and every name in ``lightning.pytorch.callbacks``, ``loggers`` and
``profilers`` stands here once, with "" where it works, or the sentence with which it is refused. A test
goes over Lightning's own lists, so that a later version's new name fails it until it is decided upon.
A name that is not here is left to Lightning.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping

WORKS = ""
_BASE = "is a base class, which does nothing by itself; name a class of yours that extends it"
_BATCH_SIZE = (
    "would change the batch size behind config.yaml's back; data.batch_size=auto takes the largest that "
    "fits, and -m data.batch_size=64,128,256 compares several"
)
_LR = (
    "would change the learning rate behind config.yaml's back; python -m cnnexp.lr_find suggests one, "
    "optimizer.lr=… sets it, and -m optimizer.lr=1e-4,1e-3,1e-2 compares several"
)
_PREDICTS = "a training predicts nothing; use python -m cnnexp.predict run=<folder> afterwards"
_TPU = "needs a TPU, on which cnnexp does not train; use simple, advanced or pytorch"

TRAINER: Mapping[str, str] = {
    "accelerator": "choose it with accelerator=auto|cpu|gpu|mps|ddp|ddp_cpu|fsdp",
    "strategy": "choose it with accelerator=ddp|ddp_cpu|fsdp",
    "devices": "set accelerator.devices",
    "num_nodes": "set accelerator.num_nodes",
    "precision": "set accelerator.precision",
    "logger": "choose it with logger=tensorboard|csv|wandb|mlflow|none",
    "callbacks": "add each with +callbacks.<name>._target_=…",
    "fast_dev_run": WORKS,
    "max_epochs": WORKS,
    "min_epochs": WORKS,
    "max_steps": WORKS,
    "min_steps": WORKS,
    "max_time": WORKS,
    "limit_train_batches": WORKS,
    "limit_val_batches": WORKS,
    "limit_test_batches": WORKS,
    "limit_predict_batches": _PREDICTS,
    "overfit_batches": WORKS,
    "val_check_interval": WORKS,
    "check_val_every_n_epoch": WORKS,
    "num_sanity_val_steps": WORKS,
    "log_every_n_steps": WORKS,
    "enable_checkpointing": "checkpoints/last.ckpt and best.ckpt are part of a run",
    "enable_progress_bar": (
        "it shows on a terminal only; elsewhere, add "
        "+callbacks.bar._target_=lightning.pytorch.callbacks.TQDMProgressBar"
    ),
    "enable_model_summary": (
        "the run's first line names the model and its size; for a table, add "
        "+callbacks.summary._target_=lightning.pytorch.callbacks.ModelSummary"
    ),
    "accumulate_grad_batches": WORKS,
    "gradient_clip_val": WORKS,
    "gradient_clip_algorithm": WORKS,
    "deterministic": WORKS,
    "benchmark": WORKS,
    "inference_mode": WORKS,
    "use_distributed_sampler": "each batch is cut into as many parts as there are processes",
    "profiler": WORKS,
    "detect_anomaly": WORKS,
    "barebones": (
        "a run without metrics and checkpoints is none to keep; logger=csv and diagnostics=off leave out "
        "what can be left out, python -m cnnexp.bench step measures bare steps"
    ),
    "plugins": (
        "checkpoints are written by cnnexp's own; the others are chosen by accelerator.precision and "
        "accelerator.sync_batch_norm"
    ),
    "sync_batchnorm": "set accelerator.sync_batch_norm",
    "reload_dataloaders_every_n_epochs": WORKS,
    "default_root_dir": "set output_dir",
    "enable_autolog_hparams": WORKS,
    "model_registry": "a run keeps its checkpoints in its own folder and uploads nothing",
}

CALLBACKS: Mapping[str, str] = {
    "BackboneFinetuning": WORKS,
    "BaseFinetuning": _BASE,
    "BasePredictionWriter": f"has nothing to write: {_PREDICTS}",
    "BatchSizeFinder": _BATCH_SIZE,
    "Callback": _BASE,
    "Checkpoint": _BASE,
    "DeviceStatsMonitor": WORKS,
    "EarlyStopping": WORKS,
    "GradientAccumulationScheduler": WORKS,
    "LambdaCallback": WORKS,
    "LearningRateFinder": _LR,
    "LearningRateMonitor": WORKS,
    "ModelCheckpoint": WORKS,
    "ModelPruning": WORKS,
    "ModelSummary": WORKS,
    "OnExceptionCheckpoint": (
        "resumes from any file of its name, another run's as well; a run keeps last.ckpt however it ends, "
        "run=<folder> resumes from it, and checkpoint.every_n_steps=100 loses less"
    ),
    "ProgressBar": _BASE,
    "RichModelSummary": WORKS,
    "RichProgressBar": WORKS,
    "SpikeDetection": WORKS,
    "StochasticWeightAveraging": (
        "tests weights that no validation has seen, and trains an epoch more than max_epochs; use "
        "regularization=swa, whose average is validated, kept and tested"
    ),
    "ThroughputMonitor": WORKS,
    "Timer": WORKS,
    "TQDMProgressBar": WORKS,
    "EMAWeightAveraging": WORKS,
    "WeightAveraging": WORKS,
}

LOGGERS: Mapping[str, str] = {
    "CometLogger": WORKS,
    "CSVLogger": WORKS,
    "LitLogger": WORKS,
    "Logger": _BASE,
    "MLFlowLogger": WORKS,
    "TensorBoardLogger": WORKS,
    "WandbLogger": WORKS,
}

PROFILERS: Mapping[str, str] = {
    "AdvancedProfiler": WORKS,
    "PassThroughProfiler": WORKS,
    "Profiler": _BASE,
    "PyTorchProfiler": WORKS,
    "SimpleProfiler": WORKS,
    "XLAProfiler": _TPU,
}

# What Lightning has, or had, elsewhere for the same
TUNING: Mapping[str, str] = {
    "auto_lr_find": _LR,
    "auto_scale_batch_size": _BATCH_SIZE,
    "Tuner": (
        "finds learning rates and batch sizes outside of a run; use python -m cnnexp.lr_find and "
        "data.batch_size=auto"
    ),
}

# The package that a class needs beside Lightning.
NEEDED: Mapping[str, str] = {
    "CometLogger": "comet_ml",
    "LitLogger": "litlogger",
    "MLFlowLogger": "mlflow",
    "WandbLogger": "wandb",
    "DeviceStatsMonitor": "psutil",
}


def refusal(kind: type, table: Mapping[str, str]) -> str:
    """Why ``kind`` does not work, as a sentence whose subject is the class; "" if it does.

    A class of somebody's own is judged by the one of Lightning that it extends, unless that is a base
    class, which is there to be extended.
    """
    for parent in kind.__mro__:
        if not _is_lightnings(parent) or parent.__name__ not in table:
            continue
        reason = table[parent.__name__]
        if parent is not kind and reason == _BASE:
            return ""
        return reason and f"{parent.__name__} {reason}"
    return ""


def missing_package(kind: type) -> str:
    """The package that ``kind`` needs and that is not installed; "" if there is none."""
    for parent in kind.__mro__:
        package = NEEDED.get(parent.__name__, "") if _is_lightnings(parent) else ""
        if package and package not in sys.modules and importlib.util.find_spec(package) is None:
            return package
    return ""


def _is_lightnings(kind: type) -> bool:
    return kind.__module__.startswith(("lightning.", "pytorch_lightning."))
