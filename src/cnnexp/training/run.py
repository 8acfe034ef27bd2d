"""Run one training from start, or from where it stopped, to result.json."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import lightning as L
import torch

from cnnexp.diagnostics import Verdict
from cnnexp.nn import layer_algorithms
from cnnexp.runs import (
    ObservedRunFolder,
    RunFolder,
    RunFolderError,
    State,
    collect_provenance,
    config_hash,
    folder_lock,
)
from cnnexp.runs.epochs import epoch_after
from cnnexp.training.assemble import Assembly, assemble
from cnnexp.training.batch_size import batch_size_as_before, settle_batch_size
from cnnexp.training.callbacks import lines_above_bar
from cnnexp.training.classifier import Classifier
from cnnexp.training.data_lines import say_of_images
from cnnexp.training.epochs import epoch_of_weights
from cnnexp.training.failures import failure_reason
from cnnexp.training.hparams import log_hparams, log_hparams_metrics
from cnnexp.training.non_finite import NonFiniteError
from cnnexp.training.quiet import quiet_lightning
from cnnexp.training.ranks import ALONE, Ranks
from cnnexp.training.resume.files import CheckpointError, read_checkpoint, read_own_checkpoint
from cnnexp.training.resume.point import ResumePoint, go_back, newest_checkpoint
from cnnexp.training.resume.position import Position
from cnnexp.training.scores import score_name
from cnnexp.training.seeds import seed_layers
from cnnexp.training.settle import Settlement, as_before, settle
from cnnexp.training.stopping import StopSignals, TrainingPruned, TrainingStopped
from cnnexp.training.trackers import end_loggers
from cnnexp.training.training_job import TrainingJob
from cnnexp.version import __version__

log = logging.getLogger(__name__)

_MOST_HALVINGS = 10  # of the learning rate, with on_nan=lower_lr


def run_training(
    job: TrainingJob,
    folder: RunFolder,
    *,
    progress_bar: bool = False,
    resume: bool = False,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Train, choose the best epoch by validation, test it once (``job.test``), and write the run folder.

    A training that is resumed where it stopped gives, on a CPU, the bits that it would have given without
    the stop: weights, metrics, event files.

    Args:
        job: What to train.
        folder: An existing folder without a run in it, or with ``resume`` one with this run.
        progress_bar: Show one on the terminal.
        resume: Continue from the newest good checkpoint; from the start where there is none yet.
        ranks: The processes of the training, with ``job.parallel``; see ``connect_ranks``.

    Returns:
        The content of result.json.

    Raises:
        TrainingStopped: Interrupted by a signal; status.json says ``stopped``.
        CheckpointError: There are checkpoints to resume from, but no good one.
        FolderInUseError: Another process is training in the folder.
        TrainingPruned: A callback ended it for a search; status.json says ``pruned``.
        NonFiniteError: A loss, gradient or weight became infinite or NaN, and ``job.on_nan`` does not
            say, or cannot, continue.
        Exception: Whatever went wrong; status.json says ``failed`` and why.
    """
    if not ranks.first:
        folder = ObservedRunFolder(folder.path)
    with folder_lock(folder.path) if ranks.first else nullcontext():
        try:
            point = None
            if resume:
                job = batch_size_as_before(as_before(job, folder, ranks), folder)
            job = settle_batch_size(job)
            if resume and ranks.first:
                point = newest_checkpoint(folder, job.identity)
                go_back(folder, point)
            return _run(job, folder, progress_bar, point, ranks)
        except NonFiniteError as error:
            if job.on_nan != "lower_lr":
                raise
            return _with_lower_rates(job, folder, progress_bar, ranks, error)


def _with_lower_rates(
    job: TrainingJob, folder: RunFolder, progress_bar: bool, ranks: Ranks, error: NonFiniteError
) -> dict[str, Any]:
    """Go back and try with half the learning rate, as often as it takes and makes sense.

    What fails again before the next checkpoint goes back to the one before that, then to the start:
    weights may have been beyond help already.
    """
    layers = ranks.from_first(folder.read_config().get("backward", {}).get("layers"))
    job = replace(
        as_before(job, folder, ranks), backward_layers=job.backward_layers or layers
    )  # as before, not measured anew
    began_at, verdicts = -1, list(error.verdicts)
    for _ in range(_MOST_HALVINGS):
        point = None
        if ranks.first:
            point = newest_checkpoint(folder, job.identity)
            if point is not None and point.position.step == began_at:
                point.file.unlink()
                point = newest_checkpoint(folder, job.identity)
            began_at = point.position.step if point else 0
        factor = error.lr_factor / 2
        log.warning("%s. Going back to step %d with %g of the rate", error, began_at, factor)
        if ranks.first:
            go_back(folder, point)
        try:
            return _run(job, folder, progress_bar, point, ranks, factor, verdicts)
        except NonFiniteError as again:
            error = again
            verdicts += error.verdicts
    raise error


def _run(
    job: TrainingJob,
    folder: RunFolder,
    progress_bar: bool,
    point: ResumePoint | None,
    ranks: Ranks,
    lr_factor: float = 1.0,
    verdicts: Sequence[Verdict] = (),
) -> dict[str, Any]:
    folder.remove_scratch()
    point = ResumePoint.agreed(point, ranks)
    at = point.position if point else None
    progress = {"epoch": at.epoch if at else 0, "step": at.step if at else 0}
    folder.write_status("running", **progress)
    made: Assembly | None = None
    signals = StopSignals()
    try:
        with signals, quiet_lightning(), lines_above_bar(progress_bar):
            L.seed_everything(job.seed, workers=True, verbose=False)
            made = assemble(
                job, folder, signals, progress_bar=progress_bar, resume=point, ranks=ranks
            )
            made.classifier.lr_factor = lr_factor
            if made.diagnostics is not None:
                made.diagnostics.health.keep(verdicts)
            settled = settle(job, made.classifier, made.trainer, ranks)
            seed_layers(job, ranks)
            _describe(job, folder, made, settled, at)
            result = _train_and_test(job, folder, made, point)
            folder.write_result(result)
            end_loggers(made.trainer.loggers, result)
            folder.write_status("done", epoch=result["epochs"], step=result["steps"])
    except BaseException as error:
        if isinstance(error, NonFiniteError) and made is not None:
            error.lr_factor = made.classifier.lr_factor
            if made.diagnostics is not None:
                error.verdicts = made.diagnostics.health.given_up(error.finding.step)
        stopped = _stopped(error, signals, ranks)
        elsewhere = None if stopped else ranks.failure_elsewhere(error)
        if stopped is None and elsewhere is None:
            ranks.tell_failure(failure_reason(error))
        _write_end(folder, made, progress, stopped or elsewhere or error)
        cause = stopped or elsewhere
        if cause is not None:
            raise cause from error
        raise
    if job.test:
        _say_tested(score_name(job.data.images.targets), result)
    if job.trainer.get("profiler"):
        log.info("profile in %s", folder.profile)
    if not job.trainer.get("fast_dev_run"):  # which is nobody's to look for
        log.info("run folder %s", folder)
    return result


def _say_tested(score: str, result: Mapping[str, Any]) -> None:
    """Log how good the weights of the best epoch are on the test images."""
    value = result[f"test/{score}"]
    figure = f"{100 * value:.2f} %" if score == "acc" else f"{value:.4f}"
    loss, epoch = result["test/loss"], result["best_epoch"]
    log.info("test/%s %s  test/loss %.4f  (weights of epoch %d)", score, figure, loss, epoch)


def _write_end(
    folder: RunFolder,
    made: Assembly | None,
    progress: dict[str, int],
    error: BaseException,
) -> None:
    """Say in status.json how the training ended; if not even that can be written, in the log alone."""
    state: State = "failed"
    if isinstance(error, (TrainingStopped, TrainingPruned)):
        state = "stopped" if isinstance(error, TrainingStopped) else "pruned"
    reason = failure_reason(error) if state == "failed" else str(error)
    try:
        if made is not None:
            # an epoch that status.json counts already is done, even if the Trainer has yet to count it
            counted = folder.read_status().get("epoch", 0)
            epoch = max(made.trainer.current_epoch, counted)
            progress = {"epoch": epoch, "step": made.trainer.global_step}
        health = made.diagnostics.health.present if made and made.diagnostics else ()
        troubles = {"health": [each.as_dict() for each in health]} if health else {}
        folder.write_status(state, **progress, error=reason, **troubles)
        if made is not None and made.judge is not None:
            folder.write_evidence(made.judge.evidence)
    except (OSError, RunFolderError) as problem:
        log.error("status.json could not be written: %s", problem)


def _describe(
    job: TrainingJob,
    folder: RunFolder,
    made: Assembly,
    settled: Settlement,
    position: Position | None,
) -> None:
    """Say what is about to run, on the terminal and in the run folder."""
    images = job.data.images
    say_of_images(job)
    device = _device(made.trainer)
    sizes = [len(job.data.train), len(job.data.val), len(images.test)]
    parameters = _parameters(made.classifier)
    log.info(
        "cnnexp %s  %s, %s parameters  backward %s  %s %s (train/val/test)  on %s in %s  seed %d",
        __version__,
        type(made.classifier.network).__name__,
        f"{parameters:,}",
        job.backward,
        job.data.title,
        "/".join(f"{size:,}" for size in sizes),
        device,
        made.trainer.precision,
        job.seed,
    )
    if job.start is not None and made.start is not None:
        log.info("starts from %s: %s", job.start.name, made.start)
    if made.account is not None:
        log.info("%s", made.account)
        log.info(
            "privacy: ε is about the weights. It does not cover the curves of losses and accuracies, nor the "
            "choice of the best epoch by validation images: keep these to yourself (docs/privacy.md)"
        )
    folder.write_config(settled.config)
    provenance = collect_provenance(
        seed=job.seed,
        device=device,
        threads=torch.get_num_threads(),
        ranks=job.parallel.ranks if job.parallel is not None else 1,
        precision=made.trainer.precision,
        **settled.ratios,
        **({"init_from": job.start.described(made.start)} if job.start and made.start else {}),
        dataset={
            "name": images.name,
            "checksum": images.checksum,
            "sizes": sizes,
            "shape": list(images.train.shape),
            "classes": list(images.classes),
            **({"targets": images.targets} if images.targets != "classes" else {}),
        },
    )
    if position is not None:  # the run is of several commands, maybe of several versions
        begun = folder.read_provenance()
        present = epoch_after(position.epoch)
        again = {**provenance, "epoch": present, "step": position.step}
        provenance = {**begun, "resumed": [*begun.get("resumed", ()), again]}
    folder.write_provenance(provenance)


def _train_and_test(
    job: TrainingJob,
    folder: RunFolder,
    made: Assembly,
    point: ResumePoint | None,
) -> dict[str, Any]:
    trainer, classifier = made.trainer, made.classifier
    parameters = _parameters(classifier)  # before a callback freezes some
    boards = trainer.loggers if job.trainer.get("enable_autolog_hparams", True) else []
    if point is None:
        log_hparams(boards, job.config, job.data.images.name)
    begin = (point.position.epoch, point.position.batch) if point else (0, 0)
    job.data.start_at(*begin)  # an earlier attempt may have left another place there
    file = point.file if point else None
    trainer.fit(
        classifier, datamodule=job.data, ckpt_path=file, weights_only=True if file else None
    )
    epochs, steps, seconds = trainer.current_epoch, trainer.global_step, made.checkpoints.seconds
    best = _take_best(job, folder, made)
    test: Mapping[str, float] = {}  # where the test images are left unread
    if job.test:
        test = trainer.test(classifier, datamodule=job.data, verbose=False)[0]
    last = made.history.last
    rates = made.throughput.images_per_second
    score = score_name(job.data.images.targets)
    result = {
        "status": "done",
        "dataset": job.data.images.name,
        "backward": job.backward,
        "backward/layers": layer_algorithms(classifier.network),
        "precision": trainer.precision,
        **classifier.compile_facts,
        f"test/{score}": round(test[f"test/{score}"], 6) if test else None,
        "test/loss": test["test/loss"] if test else None,
        f"val/{score}": round(best[f"val/{score}"], 6) if f"val/{score}" in best else None,
        "val/loss": best.get("val/loss"),
        "train/loss": last.get("train/loss"),
        "best_epoch": int(best.get("epoch", 0)),
        "epochs": epochs,
        "steps": steps,
        "seconds_fit": round(seconds, 2),
        "images_per_second": round(statistics.mean(rates), 1) if rates else None,
        "parameters": parameters,
        "seed": job.seed,
        "config_hash": config_hash(job.config),
    }
    for name in classifier.val_metrics:
        result |= {f"test/{name}": test.get(f"test/{name}"), f"val/{name}": best.get(f"val/{name}")}
    result |= _found_out(job, folder, made)
    log_hparams_metrics(boards, result, steps)
    return result


def _found_out(job: TrainingJob, folder: RunFolder, made: Assembly) -> dict[str, Any]:
    """What the callbacks say of the training, as entries of result.json."""
    found: dict[str, Any] = {}
    skipped, factor = made.guard.skipped, made.classifier.lr_factor
    if made.diagnostics is not None:
        found["health"] = [verdict.as_dict() for verdict in made.diagnostics.health.verdicts]
    if made.judge is not None:
        found["diagnosis"] = made.judge.diagnosis.as_dict()
        folder.write_evidence(made.judge.evidence)
    if job.debug != "none":
        finding = made.finding
        found["debug"] = {"name": job.debug} if finding is None else finding.result()
    if skipped or factor != 1.0:  # said only where it makes the run another
        found |= {"steps_skipped": skipped, "lr_factor": factor}
    if made.account is not None:
        found |= made.account.result()
    return found


def _take_best(job: TrainingJob, folder: RunFolder, made: Assembly) -> dict[str, float]:
    """Give the classifier the weights of the best epoch, and return its metrics.

    Where best.ckpt is not that epoch's, because somebody took it away or put another file there, those
    are of the last epoch.
    """
    best = made.history.best(job.monitor, job.mode)
    weights = None
    if made.checkpoints.keeps_best:
        try:
            content = read_own_checkpoint(folder.best_checkpoint, folder.path, job.identity)
            if "cnnexp" in content or epoch_of_weights(content) != best["epoch"]:
                raise CheckpointError(f"{folder.best_checkpoint}: is not of epoch {best['epoch']}")
            weights = content["state_dict"]
        except CheckpointError as error:
            log.warning("%s; testing the last epoch instead", error)
            best = made.history.last
    if weights is None and folder.last_checkpoint.exists():
        weights = read_checkpoint(folder.last_checkpoint)["state_dict"]
    if weights is not None:
        made.classifier.load_state_dict(weights)
    return best


def _parameters(classifier: Classifier) -> int:
    return sum(p.numel() for p in classifier.network.parameters() if p.requires_grad)


def _device(trainer: L.Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _stopped(error: BaseException, signals: StopSignals, ranks: Ranks) -> TrainingStopped | None:
    """What stopped the training; None if ``error`` is a failure."""
    if isinstance(error, TrainingStopped):
        return error
    # at the very step that a signal let finish; or as another rank was gone before this one
    if (isinstance(error, NonFiniteError) or ranks.count > 1) and signals.request is not None:
        return signals.request
    # Lightning turns a KeyboardInterrupt into SystemExit(1) once it has cleaned up
    interrupted = isinstance(error.__context__, KeyboardInterrupt)
    return TrainingStopped(130) if isinstance(error, KeyboardInterrupt) or interrupted else None
