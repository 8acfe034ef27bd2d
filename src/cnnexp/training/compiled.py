"""Settle whether torch.compile computes the training passes of a network, before the first step."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import lightning as L

from cnnexp.runs import RunFolder
from cnnexp.training.classifier import Classifier
from cnnexp.training.example import example_batch, run_in
from cnnexp.training.ranks import ALONE, Ranks
from cnnexp.training.training_job import TrainingJob
from cnnexp.tuning import CompileChoice, NotCompiledError, choose_compiled, try_compiled

log = logging.getLogger(__name__)


class CompileError(RuntimeError):
    """``compile=on``, and the network cannot be compiled."""


class SettledCompile(NamedTuple):
    """What has been settled.

    Attributes:
        config: The config of the run, with what was chosen.
        ratio: The time of a compiled step by that of the step as it is written; None if not measured.
    """

    config: dict[str, Any]
    ratio: float | None = None


def settle_compile(
    job: TrainingJob, classifier: Classifier, trainer: L.Trainer, ranks: Ranks = ALONE
) -> SettledCompile:
    """Let torch.compile compute the training passes of ``classifier``, if ``job`` wants that.

    The layers' algorithms and the precision are settled. With ``auto`` it is measured, unless ``job`` says
    what had been chosen; a line of the log says what came of it.

    Raises:
        CompileError: ``job`` demands it, and it cannot be done.
    """
    if job.compile == "off":
        return SettledCompile(dict(job.config))
    if job.compile == "on":
        _compile(job, classifier, trainer, ranks)
        return SettledCompile(dict(job.config))
    chosen, ratio = job.compile_chosen, None
    if chosen is None:
        choice = ranks.from_first(
            _measured(job, classifier, trainer, ranks) if ranks.first else None
        )
        assert choice is not None
        chosen, ratio = choice.compiled, choice.ratio
        _say(choice)
    else:
        log.info("compile auto: %s, as was chosen", "on" if chosen else "off")
    if chosen:
        classifier.compile_network()
    node = {**job.config.get("compile", {"name": "auto"}), "chosen": chosen}
    known = None if ratio is None or math.isinf(ratio) else ratio
    return SettledCompile({**job.config, "compile": node}, known)


def compile_as_before(job: TrainingJob, config: Mapping[str, Any]) -> TrainingJob:
    """``job`` with what its run, whose config.yaml holds ``config``, chose, so that nothing is measured."""
    chosen = (config.get("compile") or {}).get("chosen")
    if job.compile != "auto" or job.compile_chosen is not None or chosen is None:
        return job
    return replace(job, compile_chosen=bool(chosen))


def compile_config(folder: RunFolder, ranks: Ranks) -> dict[str, Any]:
    """What the config of the run in ``folder`` says of ``compile``, known to all ranks."""
    return ranks.from_first(
        {"compile": folder.read_config().get("compile")} if ranks.first else None
    )


def _compile(job: TrainingJob, classifier: Classifier, trainer: L.Trainer, ranks: Ranks) -> None:
    batch = example_batch(job, classifier, trainer, ranks)
    run = run_in(trainer.precision_plugin)
    try:
        seconds = try_compiled(classifier.network, batch, run)
    except NotCompiledError as error:
        raise CompileError(
            f"compile=on: the network cannot be compiled: {error}; use compile=off, or compile=auto, which "
            f"then does without"
        ) from error
    log.info("compile on: torch.compile took %.1f s; measured steps run as written", seconds)
    classifier.compile_network()


def _measured(
    job: TrainingJob, classifier: Classifier, trainer: L.Trainer, ranks: Ranks
) -> CompileChoice:
    batch = example_batch(job, classifier, trainer, ranks)
    return choose_compiled(classifier.network, batch, run_in(trainer.precision_plugin))


def _say(choice: CompileChoice) -> None:
    if choice.reason:
        log.info("compile auto: off, since the network cannot be compiled: %s", choice.reason)
        return
    took = f" (found out in {choice.seconds:.0f} s)" if choice.seconds else ""
    log.info(
        "compile auto: %s, compiled the step takes %.2f of the time%s",
        "on" if choice.compiled else "off",
        choice.ratio,
        took,
    )
