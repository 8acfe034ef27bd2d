"""``python -m cnnexp.evaluate run=<folder>``: the quality of a trained network.

It gives accuracy, the run's own loss and metrics, calibration error, figures of each class, and the confusion
matrix; where the weights are an average (EMA, SWA), also the figures of the weights that were trained. The
images are the run's own test images, or others given by ``data=…``.

Exit codes: 0 done, 1 a file is damaged, 2 the command cannot work.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cnnexp.commandline import run_command
from cnnexp.config import ConfigError
from cnnexp.postponed import quick_imports
from cnnexp.runs.files import plain

if TYPE_CHECKING:
    from cnnexp.data import ImageDataModule
    from cnnexp.inference import Evaluation, TrainedNetwork


_DEFAULTS = {"checkpoint": "", "split": "test", "backward": "auto", "device": "cpu"}
_WIDEST = 12  # a terminal shows confusion matrices of at most this many classes


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its code."""
    run_command("cnnexp.evaluate", lambda: _run(_parser().parse_intermixed_args()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnnexp.evaluate",
        description="How well a trained network does.",
        epilog=(
            "settings: run=<folder>|<sweep>|latest, which=best|<number>|<job id> of a sweep (default: best "
            "by validation), checkpoint=best|last, split=test|val|train, "
            "data=<choice> and data.<key>=… for other images, device=cpu|cuda, "
            "backward=auto (as the run)|native|…, allow_targets=[mylab.]"
        ),
    )
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _run(options: argparse.Namespace) -> int:
    with quick_imports():
        from cnnexp.inference import data_of_run, evaluate, read_settings
        from cnnexp.inference.run_data import judges_of_run
        from cnnexp.kernels.compilation import said_on

    settings = read_settings(options.settings, _DEFAULTS, data=True)
    values = settings.values
    if values["split"] not in ("test", "val", "train"):
        raise ConfigError(f"split={values['split']}: must be one of test, val, train")
    trained = settings.load(values["backward"])
    trained.require_classes("cnnexp.evaluate")
    _to_device(trained, values["device"])
    data = data_of_run(trained, settings.data, settings.extra_targets)
    with said_on(sys.stderr):
        loss, metrics = judges_of_run(trained, data, settings.extra_targets)
        judge = partial(evaluate, loss=loss, metrics=metrics)
        found = _evaluations(trained, data, values["split"], judge)
    settings.say_which_run("cnnexp.evaluate")
    kind = "cross-entropy" if loss is None else type(loss).__name__
    if options.json:
        print(json.dumps(_as_json(trained, data, values["split"], found, kind), indent=2))
    else:
        _print(trained, data, values["split"], found, kind)
    return 0


def _to_device(trained: TrainedNetwork, device: str) -> None:
    try:
        trained.classifier.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device={device}: cannot be used here: {reason}") from error


def _evaluations(
    trained: TrainedNetwork,
    data: ImageDataModule,
    split: str,
    judge: Callable[..., Evaluation],
) -> dict[str, Evaluation]:
    """The evaluations by the name of the weights: one, or "average" and "trained on"."""
    from cnnexp.data import batch_loader
    from cnnexp.inference.evaluation import with_weights

    part = {"test": data.images.test, "val": data.val, "train": data.train}[split]
    if len(part) == 0:
        raise ConfigError(f"split={split}: {data.images.name} has no such images in this run")
    batches = batch_loader(part, data.eval_batch_size)
    if trained.trained_weights is None:
        return {"weights": judge(trained.classifier, batches)}
    found = {"average": judge(trained.classifier, batches)}
    with with_weights(trained.classifier, trained.trained_weights):
        found["trained on"] = judge(trained.classifier, batches)
    return found


def _as_json(
    trained: TrainedNetwork,
    data: ImageDataModule,
    split: str,
    found: Mapping[str, Evaluation],
    loss: str,
) -> dict[str, Any]:
    return {
        "run": str(trained.folder),
        "checkpoint": trained.checkpoint,
        "epoch": trained.epoch,
        "dataset": data.images.name,
        "checksum": data.images.checksum,
        "split": split,
        "classes": list(data.images.classes),
        "loss": loss,
        "weights": {name: plain(each.as_dict()) for name, each in found.items()},
    }


def _print(
    trained: TrainedNetwork,
    data: ImageDataModule,
    split: str,
    found: Mapping[str, Evaluation],
    loss: str,
) -> None:
    images = data.images
    if images.notice:
        print(images.notice)
    first = next(iter(found.values()))
    print(f"{trained.folder}  {trained.checkpoint}, epoch {trained.epoch}")
    print(f"{images.name} {split}, {first.images:,} images")
    print()
    print(f"{'weights':12}{'accuracy':>10}{'95 %':>18}{'loss':>10}{'calibration error':>20}")
    for name, each in found.items():
        low, high = each.interval()
        print(
            f"{name:12}{each.accuracy:>10.2%}{f'{low:.2%} – {high:.2%}':>18}{each.loss:>10.4f}"
            f"{each.calibration_error:>20.4f}"
        )
    if loss != "cross-entropy":
        print(f"loss: the run's own, {loss}")
    for name, each in found.items():
        if each.metrics:
            own = "  ".join(f"{metric} {value:.4f}" for metric, value in each.metrics.items())
            print(f"{name:12}{own}")
    _print_classes(images.classes, first)


def _print_classes(classes: Sequence[str], found: Evaluation) -> None:
    width = max(5, *(len(name) for name in classes)) + 2
    print()
    print(
        f"{'class':{width}}{'images':>8}{'precision':>11}{'recall':>9}{'F1':>9}  most often taken for"
    )
    for i, (name, row) in enumerate(zip(classes, found.by_class(), strict=True)):
        counts = [(count, j) for j, count in enumerate(found.confusion[i]) if j != i]
        most, j = max(counts, key=lambda pair: pair[0])
        mistaken = f"{classes[j]} ({most})" if most else "-"
        print(
            f"{name:{width}}{row['images']:>8,}{_share(row['precision']):>11}{_share(row['recall']):>9}"
            f"{_share(row['f1']):>9}  {mistaken}"
        )
    print()
    if len(classes) > _WIDEST:
        print(f"confusion matrix of {len(classes)} classes: --json has it")
        return
    cell = max(6, *(len(name) + 2 for name in classes))
    print("confusion matrix: a row a true class, a column a predicted one")
    print(" " * width + "".join(f"{name:>{cell}}" for name in classes))
    for name, row in zip(classes, found.confusion, strict=True):
        print(f"{name:{width}}" + "".join(f"{count or '·':>{cell}}" for count in row))


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2%}"


if __name__ == "__main__":
    main()
