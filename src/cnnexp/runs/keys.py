"""What each key of a config means to a run: one table, a row a key.

Whoever has to know which keys matter asks here: the hash of a job (``cnnexp.runs.config_hash``), what a
command may change when it resumes a run (``cnnexp.config.resumption``), what tells the runs of a report
apart (``cnnexp.reporting``), TensorBoard's table of hyperparameters (``cnnexp.training.hparams``).

A key without a row is like its part: ``optimizer.lr`` is like ``optimizer``. Every key that cnnexp itself
declares in ``cnnexp.config.schema`` has a row of its own, so that nobody adds one without thinking of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

YES, NO = True, False


@dataclass(frozen=True)
class Key:
    """One row.

    Attributes:
        name: The dotted key, or a part of the config, whose keys are like it.
        identity: Whether a job with another value is another job, with a hash and a folder of its own.
        resume: Whether a command may change it when it resumes a run.
        report: Whether runs that differ in it are another setting in a report. (Of runs that differ in
            their seeds or folds alone a report gives the mean.)
        hparam: Whether TensorBoard's table of hyperparameters shows it.
        without: Of a key that came later, the value at which all is as it was before: at this value the
            job is the one that it was without the key, and keeps its hash.
    """

    name: str
    identity: bool
    resume: bool
    report: bool
    hparam: bool
    without: Any = ...


# fmt: off
_ROWS = (
    #   key                                 identity resume report hparam
    Key("seed",                             YES,     NO,    NO,    YES),
    # how long, and what is kept
    Key("trainer",                          YES,     NO,    YES,   NO),
    Key("trainer.max_epochs",               YES,     YES,   YES,   NO),
    Key("trainer.enable_progress_bar",      YES,     YES,   YES,   NO),
    Key("checkpoint",                       YES,     NO,    NO,    NO),
    Key("checkpoint.monitor",               YES,     NO,    YES,   NO),
    Key("checkpoint.every_n_steps",         NO,      YES,   NO,    NO),
    # the images; how many processes make batches of them changes no number
    Key("data",                             YES,     NO,    YES,   YES),
    Key("data.root",                        NO,      YES,   NO,    NO),
    Key("data.download",                    YES,     YES,   NO,    NO),
    Key("data.fallback",                    YES,     YES,   NO,    NO),
    Key("data.num_workers",                 NO,      YES,   NO,    YES),
    Key("data.batch_size",                  YES,     NO,    YES,   YES),
    # what batch_size=auto chose on this machine; a run that is resumed keeps it
    Key("data.chosen_batch_size",           NO,      NO,    YES,   YES),
    Key("data.eval_batch_size",             YES,     NO,    YES,   YES),
    Key("data.val_size",                    YES,     NO,    YES,   YES),
    # runs that differ in the fold alone are one setting, as those that differ in their seeds are
    Key("data.folds",                       YES,     NO,    YES,   YES,  None),
    Key("data.fold",                        YES,     NO,    NO,    YES,  None),
    Key("data.train_size",                  YES,     NO,    YES,   YES),
    Key("data.classes",                     YES,     NO,    YES,   YES),
    Key("data.split_seed",                  YES,     NO,    YES,   YES),
    # where the run lies, what it is called, who looks on
    Key("name",                             NO,      YES,   NO,    NO),
    Key("output_dir",                       NO,      YES,   NO,    NO),
    Key("sweep",                            NO,      YES,   NO,    NO),
    Key("sweep.name",                       NO,      YES,   NO,    NO),
    Key("sweep.retry",                      NO,      YES,   NO,    NO),
    Key("hydra",                            NO,      NO,    NO,    NO),
    Key("logger",                           YES,     YES,   NO,    NO),
    Key("logger.mlflow",                    NO,      YES,   NO,    NO),
    Key("logger.wandb",                     NO,      YES,   NO,    NO),
    Key("validate_only",                    YES,     YES,   NO,    NO),
    Key("allow_targets",                    YES,     YES,   NO,    NO),
    Key("callbacks",                        YES,     NO,    YES,   NO),
    # the network, and how its gradients are computed
    Key("model",                            YES,     NO,    YES,   YES),
    Key("parameters",                       YES,     NO,    YES,   NO),
    Key("parameters.frozen",                YES,     NO,    YES,   NO),
    Key("parameters.lr_scale",              YES,     NO,    YES,   NO),
    Key("parameters.decay_all",             YES,     NO,    YES,   NO),
    # the weights to start from count by their content, wherever they lie
    Key("init_from",                        YES,     NO,    YES,   YES,  {}),
    Key("init_from.weights",                NO,      NO,    YES,   YES),
    Key("init_from.layers",                 YES,     NO,    YES,   YES,  []),
    Key("init_from.sha256",                 YES,     NO,    YES,   NO,   None),
    Key("backward",                         YES,     NO,    YES,   YES),
    Key("backward.name",                    YES,     NO,    YES,   YES),
    # what auto chose on this machine: another one may choose otherwise for the same job
    Key("backward.layers",                  NO,      YES,   NO,    YES),
    Key("backward.recompute",               YES,     NO,    YES,   YES,  False),
    Key("backward.functions",               YES,     NO,    YES,   YES,  False),
    # torch.compile rounds otherwise; what auto chose on this machine is kept by a run that is resumed
    Key("compile",                          YES,     NO,    YES,   YES,  {"name": "off"}),
    Key("compile.name",                     YES,     NO,    YES,   YES),
    Key("compile.chosen",                   NO,      NO,    YES,   NO),
    Key("loss",                             YES,     NO,    YES,   YES,
        {"_target_": "cnnexp.nn.CrossEntropyLoss", "class_weights": None}),
    Key("metrics",                          YES,     NO,    YES,   NO,   {}),
    # how it learns
    Key("optimizer",                        YES,     NO,    YES,   YES),
    Key("scheduler",                        YES,     NO,    YES,   YES),
    Key("regularization",                   YES,     NO,    YES,   YES),
    Key("regularization.random_shift.edge", YES,     NO,    YES,   YES,  "replicate"),
    Key("accelerator",                      YES,     NO,    YES,   NO),
    Key("accelerator.name",                 YES,     YES,   YES,   NO),
    Key("accelerator.devices",              YES,     YES,   YES,   NO),
    Key("accelerator.num_nodes",            YES,     NO,    YES,   NO),
    Key("accelerator.precision",            YES,     NO,    YES,   NO),
    # what precision=auto chose on this machine; a run that is resumed keeps it
    Key("accelerator.chosen_precision",     NO,      NO,    YES,   NO),
    Key("accelerator.channels_last",        YES,     NO,    YES,   NO),
    # in how large turns the loop goes round changes no number
    Key("accelerator.steps_per_call",       NO,      YES,   NO,    NO,   1),
    Key("accelerator.sync_batch_norm",      YES,     NO,    YES,   NO),
    Key("accelerator.gradient_compression", YES,     NO,    YES,   NO),
    Key("accelerator.bucket_mb",            YES,     NO,    YES,   NO),
    Key("on_nan",                           YES,     YES,   YES,   NO,   "stop"),
    Key("test",                             YES,     NO,    YES,   NO,   True),
    # a run without privacy is the one that it was before there was any
    Key("privacy",                          YES,     NO,    YES,   YES,  {"name": "none"}),
    Key("privacy.name",                     YES,     NO,    YES,   YES),
    Key("privacy.epsilon",                  YES,     NO,    YES,   YES),
    Key("privacy.noise_multiplier",         YES,     NO,    YES,   YES),
    Key("privacy.delta",                    YES,     NO,    YES,   YES),
    Key("privacy.clip",                     YES,     NO,    YES,   YES),
    Key("privacy.clipping",                 YES,     NO,    YES,   YES),
    Key("privacy.augmentations",            YES,     NO,    YES,   YES),
    Key("privacy.accountant",               YES,     NO,    YES,   NO),
    Key("privacy.secure_noise",             YES,     NO,    YES,   NO),
    # a run that is none to compare, in a folder of its own
    Key("debug",                            YES,     NO,    NO,    NO,   {"name": "none"}),
    Key("debug.name",                       YES,     NO,    NO,    NO),
    # what is looked at changes no number, but what diagnostics=full has to tell is another result
    Key("diagnostics",                      YES,     YES,   YES,   NO,   {"name": "basic"}),
    Key("diagnostics.name",                 YES,     YES,   YES,   NO),
    Key("diagnostics.every",                NO,      YES,   YES,   NO),
    Key("diagnostics.landscape_every",      NO,      YES,   YES,   NO),
    Key("diagnostics.noise_parts",          NO,      YES,   YES,   NO),
    Key("diagnostics.sharpness_iterations", NO,      YES,   YES,   NO),
    Key("diagnostics.health",               NO,      YES,   YES,   NO),
)
# fmt: on

KEYS: Mapping[str, Key] = {row.name: row for row in _ROWS}
_UNKNOWN = Key("", identity=YES, resume=NO, report=YES, hparam=NO)  # nothing is hidden by oversight


def meaning(key: str) -> Key:
    """The row of the dotted ``key``, or of the part that it is in."""
    while key not in KEYS:
        key, dot, _ = key.rpartition(".")
        if not dot:
            return _UNKNOWN
    return KEYS[key]


def resumable_keys() -> list[str]:
    """What a command may change when it resumes a run; of a part that it may change, the part alone."""
    may = [key for key, row in KEYS.items() if row.resume]
    return [key for key in may if key.rpartition(".")[0] not in may]


def identity_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a resolved ``config`` makes its job another than all others; null at its root is nothing."""
    return {key: value for key, value in _without_the_rest(config).items() if value is not None}


def _without_the_rest(part: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    kept = {}
    for key, given in part.items():
        value = _without_the_rest(given, f"{prefix}{key}.") if isinstance(given, Mapping) else given
        row = meaning(f"{prefix}{key}")
        as_before = row.name == f"{prefix}{key}" and row.without == value
        if row.identity and not as_before:
            kept[key] = value
    return kept
