"""Train from a program or a notebook: what the command ``cnnexp.train`` does, without Hydra in sight.

Once it has trained, the process keeps the memory that it frees, as a command's does (``cnnexp.kept_memory``).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.data import forget_images
from cnnexp.config.hydra_settings import for_all
from cnnexp.config.resolvers import register_resolvers
from cnnexp.config.resumption import check_overrides, check_resumable
from cnnexp.config.selection import run_to_resume
from cnnexp.config.targets import allowed_prefixes
from cnnexp.data import ImageDataModule, ImageSet, as_image_set, offered_images
from cnnexp.execution import Job, run_job
from cnnexp.execution.checking import checked_job
from cnnexp.execution.folders import run_folder
from cnnexp.kept_memory import keep_freed_memory
from cnnexp.models import key_of_network, name_of_network, offered_network
from cnnexp.notebook.overrides import overrides_of
from cnnexp.notebook.run import Run, trained_in
from cnnexp.runs import RunFolder
from cnnexp.runs.terminal import TerminalFormatter
from cnnexp.training import TrainingStopped, run_training

__all__ = ["fit"]

_LOADED_BY = (
    "size",
    "image_size",
    "channels",
    "num_classes",
    "seed",
    "_target_",
)  # of data=synthetic
# What a data module of ours says of its images; their order, and where batches lie, are the run's.
_OF_MODULE = (
    *("batch_size", "eval_batch_size", "val_size", "folds", "fold", "train_size"),
    *("split_seed", "num_workers"),
)
_SHORT = {"epochs": "trainer.max_epochs", "lr": "optimizer.lr", "batch_size": "data.batch_size"}


@dataclass(frozen=True)
class _Given:
    """What was given as an object, in the place of a name."""

    model: nn.Module | Callable[..., nn.Module] | None
    images: ImageSet | None

    def nodes(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """``config`` with what stands for the objects."""
        parts = dict(config)
        if self.model is not None:
            parts["model"] = {
                "_target_": "cnnexp.models.given_network",
                "name": name_of_network(self.model),
                "key": key_of_network(self.model),
            }
        if self.images is not None:
            kept = {k: v for k, v in config["data"].items() if k not in _LOADED_BY}
            kept = {
                k: v for k, v in kept.items() if k not in ("name", "checksum")
            }  # if it is resumed
            of_set = {"name": self.images.name, "checksum": self.images.checksum}
            parts["data"] = {"_target_": "cnnexp.data.given_images", **of_set, **kept}
        return parts

    def offer(self) -> ExitStack:
        """Within it the config's names mean these objects, and files are read anew."""
        forget_images()
        stack = ExitStack()
        if self.model is not None:
            stack.enter_context(offered_network(self.model, key_of_network(self.model)))
        if self.images is not None:
            stack.enter_context(offered_images(self.images))
        return stack


def fit(
    model: str | nn.Module | Callable[..., nn.Module] | None = None,
    data: Any = None,
    *,
    test: Any = None,
    classes: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    resume: str | Path | Run | None = None,
    config_dir: str | Path | None = None,
    allow_targets: Sequence[str] = (),
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train a network as ``python -m cnnexp.train`` does, and return the run, a run folder like others.

    Everything is checked before anything is written. Interrupting it (Ctrl-C, a notebook's stop button) ends
    the run after its step, with a checkpoint to resume from.

    Args:
        model: A name in ``conf/model`` (default ``"seed_cnn"``); a Module, of which a copy is trained, from
            its own weights; or a class or function that makes one, with ``in_channels``, ``num_classes`` and
            ``image_size`` if it takes them, whose weights the seed draws.
        data: A name in ``conf/data`` (default ``"mnist"``); ``(x, y)``, images (N, C, H, W) or (N, H, W) in
            0…255 as integers or 0…1 as floats, and classes (N,); a ``Dataset``; an ``ImageSet``; or a data
            module, an ``ImageDataModule`` with its split and batches. See ``cnnexp.data.as_image_set``.
        test: Test images for ``data``, likewise; without them a sixth of ``data`` is held out.
        classes: Names of the classes of ``data``.
        overrides: Any other setting: ``{"data.val_size": 0.2}`` or ``["data.val_size=0.2"]``.
        resume: A run that was stopped, or is to become longer: its folder, ``"latest"``, or a ``Run``. Of the
            config only what a resumed run may change can be given; a network or data that were given as
            objects must be given again, and are compared with those of the run.
        config_dir: A folder with configs of your own, as ``--config-dir``.
        allow_targets: Prefixes of modules that these configs may name, such as ``"mylab."``.
        progress: Show a progress bar and the lines of the log.
        **settings: Settings without a dot in their names: ``optimizer="adamw"``, ``epochs=3``, ``lr=1e-3``,
            ``batch_size=64``, ``seed=1``, ``backward="direct"``, ``regularization=["l2", "mixup"]``,
            ``name="mine"``, ``output_dir="outputs"``.

    Raises:
        ConfigError: A setting cannot work; the message says why and what is allowed.
        KeyboardInterrupt: It was interrupted.
        Exception: What made the training fail; status.json in the run folder has the reason.

    Examples::

        run = fit("lenet5", "mnist", optimizer="adamw", epochs=3, overrides={"optimizer.lr": 1e-3})
        run.result["test/acc"], run.metrics["val/acc"], run.network, run.folder
    """
    register_resolvers()
    given = _given(model, data, test, classes)
    named = {_SHORT.get(key, key): value for key, value in settings.items()}
    wished = [*overrides_of(named), *overrides_of(overrides)]
    allowed = (*allowed_prefixes(), *allow_targets)
    if resume is not None:
        return _resumed(given, model, data, wished, resume, allowed, progress)
    choices = _choices(given, model, data, wished)
    if allow_targets:
        choices.append(f"allow_targets=[{','.join(allow_targets)}]")
    composer = Composer("train", config_dir=None if config_dir is None else str(config_dir))
    return _begun(given, composer, choices, allowed, progress)


def _begun(
    given: _Given,
    composer: Composer,
    choices: Sequence[str],
    allowed: tuple[str, ...],
    progress: bool,
) -> Run:
    composed = composer.compose([*for_all(), *choices])
    config = given.nodes(plain_config(composed))
    with given.offer(), _said(None, progress):
        job = checked_job(composed, config, choices)
        _refuse_ranks(given, job.parallel)
        folder = run_folder(composed)
        try:
            with _said(folder, progress):
                if job.parallel is not None:
                    run_job(Job(config, str(folder), allowed), job)
                    _raise_failure(folder)
                else:
                    _train(partial(run_training, job, folder, progress_bar=progress), folder)
        finally:
            folder.remove_if_empty()
    return _run(folder, given, allowed)


def _resumed(
    given: _Given,
    model: Any,
    data: Any,
    wished: Sequence[str],
    resume: str | Path | Run,
    allowed: tuple[str, ...],
    progress: bool,
) -> Run:
    for name, value in (("model", model), ("data", data)):
        if isinstance(value, str):
            raise ConfigError(
                f"{name}={value}: a run that is resumed keeps its {name}; leave it out"
            )
    place = resume.folder if isinstance(resume, Run) else resume
    folder = run_to_resume([f"run={place}", *[o for o in wished if o.startswith("output_dir=")]])
    assert folder is not None  # since run= is given
    check_overrides(wished, Composer("train").groups())
    composer = Composer("config", config_dir=str(folder.path.resolve()))
    composed = composer.compose([*for_all(), *wished])
    config = given.nodes(plain_config(composed))
    with given.offer(), _said(None, progress):
        job = checked_job(composed, config, [f"allow_targets=[{','.join(allowed)}]"])
        check_resumable(folder, config, job.data.images.checksum, job.regularizers)
        _refuse_ranks(given, job.parallel)
        with _said(folder, progress):
            if job.parallel is not None:
                run_job(Job(config, str(folder), allowed), job)
                _raise_failure(folder)
            else:
                _train(
                    partial(run_training, job, folder, progress_bar=progress, resume=True), folder
                )
    return _run(folder, given, allowed)


def _given(model: Any, data: Any, test: Any, classes: Sequence[str] | None) -> _Given:
    if model is not None and not isinstance(model, (str, nn.Module)) and not callable(model):
        raise ConfigError(
            f"model={model!r}: must be a name such as 'lenet5', a Module, or what makes one"
        )
    images = None
    if data is not None and not isinstance(data, str):
        try:
            images = as_image_set(data, test, classes=classes)
        except (ValueError, TypeError) as error:
            raise ConfigError(" ".join(str(error).split())) from error
    elif test is not None or classes is not None:
        raise ConfigError(
            f"test and classes go with images given as objects; data={data or 'mnist'} has its own"
        )
    given: Any = None if isinstance(model, str) else model
    return _Given(given, images)


def _choices(given: _Given, model: Any, data: Any, wished: Sequence[str]) -> list[str]:
    """The overrides of the whole command, with stand-ins for objects, whose nodes are replaced afterwards."""
    chosen = list(wished)
    keys = [each.lstrip("+~").partition("=")[0] for each in wished]
    for part, value in (("model", model), ("data", data)):
        if value is not None and part in keys:
            raise ConfigError(
                f"{part} is given twice: as an argument, and by the override {part}=…"
            )
    if given.model is not None:
        if own := [key for key in keys if key.startswith("model.")]:
            raise ConfigError(f"{own[0]}: the network is given as an object; change that")
        chosen.insert(0, "model=tiny")
        if "name" not in keys:
            chosen.insert(0, f"name={name_of_network(given.model).lower() or 'network'}")
    elif isinstance(model, str):
        chosen.insert(0, f"model={model}")
    if given.images is not None:
        if own := [key for key in keys if key.removeprefix("data.") in _LOADED_BY and "." in key]:
            raise ConfigError(f"{own[0]}: the images are given as an object; change that")
        chosen = ["data=synthetic", *_split_of(data, given.images, keys), *chosen]
    elif isinstance(data, str):
        chosen.insert(0, f"data={data}")
    return chosen


def _split_of(data: Any, images: ImageSet, keys: Sequence[str]) -> list[str]:
    """Overrides for how images given as an object are split and batched, unless ``keys`` say it.

    A data module of ours brings its own; else a tenth is held out where there are no images for validation.
    """
    if isinstance(data, ImageDataModule):
        settings = {key: getattr(data, key) for key in _OF_MODULE}
    else:
        settings = {"val_size": 0 if images.val is not None else 0.1}
    if "data.folds" in keys:
        left_out = ("val_size", "folds", "fold", "split_seed")  # which follow from it
    elif "data.val_size" in keys:
        left_out = ("folds", "fold")
    else:
        left_out = ()
    return [
        f"data.{key}={'null' if value is None else value}"
        for key, value in settings.items()
        if key not in left_out
    ]


def _refuse_ranks(given: _Given, parallel: object) -> None:
    if parallel is not None and (given.model is not None or given.images is not None):
        raise ConfigError(
            "accelerator.devices: several devices train in processes of their own, which have no objects of "
            "this one; name network and data by configs (python -m cnnexp.new makes a package for them)"
        )


def _train(run: Callable[[], object], folder: RunFolder) -> None:
    keep_freed_memory()
    try:
        run()
    except TrainingStopped as stop:
        raise KeyboardInterrupt(
            f"{stop}; cnnexp.fit(…, resume='{folder}') goes on where it stopped"
        ) from None


def _raise_failure(folder: RunFolder) -> None:
    status = folder.read_status()
    if status.get("state") != "done":
        raise RuntimeError(f"{folder}: {status.get('state')}: {status.get('error')}")


def _run(folder: RunFolder, given: _Given, allowed: tuple[str, ...]) -> Run:
    return Run(folder, lambda: trained_in(folder, allowed, given.offer()))


@contextmanager
def _said(folder: RunFolder | None, progress: bool) -> Iterator[None]:
    """Within it the log's lines go to standard output, or to ``folder``'s train.log."""
    logger, root = logging.getLogger("cnnexp"), logging.getLogger()
    handler: logging.Handler | None = None
    if folder is not None:
        handler = logging.FileHandler(folder.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s  %(message)s"))
    elif progress and not any(type(each) is logging.StreamHandler for each in root.handlers):
        # the root's, which a progress bar makes room for
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(TerminalFormatter())
    level = logger.level
    if handler is not None:
        root.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        if handler is not None:
            root.removeHandler(handler)
            handler.close()
