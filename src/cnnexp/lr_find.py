"""``python -m cnnexp.lr_find``: the learning-rate range test, which suggests a learning rate for a training.

It takes the settings of ``cnnexp.train``. One short training lets the rate rise exponentially; where the loss
falls and where it diverges suggest a rate, which is printed as the setting to use. No run folder is written:
picture, curve and figures lie in ``outputs/lr_find/<name>/<time>``.

Exit codes: 0 done, 1 the loss did not fall, so that nothing can be suggested, 2 the command or the config
cannot work, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from cnnexp.commandline import run_command
from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.arguments import key_of
from cnnexp.config.hydra_settings import for_all
from cnnexp.config.resolvers import register_resolvers
from cnnexp.execution.checking import checked_job
from cnnexp.execution.folders import check_folder, make_folder

if TYPE_CHECKING:
    from cnnexp.lr_range import LossCurve, Ramp, Suggestion
    from cnnexp.training import TrainingJob

_ONE = "a range test is of one training; run it for each value"
_NOT_HERE = {  # settings of cnnexp.train that say what a range test does not do
    "run": "a range test begins with new weights; a run's settings are taken by --config-dir <run folder> "
    "--config-name config",
    "sweep": _ONE,
    "hydra.run.dir": "a range test makes no run; its files go where --output says",
    "validate_only": "a range test is checked before it begins, and takes seconds",
}


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its code."""
    register_resolvers()
    run_command("cnnexp.lr_find", lambda: _run(_parser().parse_intermixed_args()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnnexp.lr_find",
        description="Suggest a learning rate by one short training in which it rises.",
        epilog="settings: as of python -m cnnexp.train, such as model=lenet5 optimizer=sgd "
        "data.batch_size=64",
    )
    parser.add_argument("settings", nargs="*", metavar="key=value")
    low, high, steps = 1e-6, 10.0, 200
    parser.add_argument(
        "--from", dest="low", type=float, default=low, metavar="RATE", help=f"default: {low:g}"
    )
    parser.add_argument(
        "--to", dest="high", type=float, default=high, metavar="RATE", help=f"default: {high:g}"
    )
    parser.add_argument("--steps", type=int, default=steps, metavar="N", help=f"default: {steps}")
    parser.add_argument("-m", "--multirun", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="for picture, curve and figures (default: outputs/lr_find/<name>/<time>)",
    )
    for flag, of in (("path", "all of the config tree"), ("dir", "more configs")):
        parser.add_argument(f"--config-{flag}", metavar="FOLDER", help=f"the folder of {of}")
    parser.add_argument("--config-name", default="train", metavar="NAME", help="default: train")
    return parser


def _run(options: argparse.Namespace) -> int:
    _check(options)
    composer = Composer(options.config_name, options.config_path, options.config_dir)
    config = _composed(composer, options.settings)
    plain = plain_config(config)
    check_folder(*_folder(options, plain))
    job = checked_job(config, plain, options.settings)
    from cnnexp.kernels.compilation import said_on
    from cnnexp.lr_range import Ramp, RangeTestError, check_testable, run_range_test, suggest

    try:
        ramp = Ramp(options.low, options.high, options.steps)
        check_testable(job)
    except ValueError as error:
        raise ConfigError(f"--from, --to, --steps: {error}") from error
    except RangeTestError as error:
        raise ConfigError(str(error)) from error
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    if job.data.images.notice:
        print(job.data.images.notice, file=sys.stderr)
    _say_what_it_costs(job, ramp)
    with said_on(sys.stderr):
        curve = run_range_test(job, ramp)
    found = suggest(curve)
    figures = _figures(job, ramp, curve, found)
    try:
        place = _write(options, plain, job, curve, found, figures)
    except (OSError, ConfigError):  # what took minutes is not lost
        _show(options, figures)
        raise
    _show(options, figures, place)
    if found is None:
        print(
            f"cnnexp.lr_find: the loss did not fall between {ramp.low:g} and {curve.rates[-1]:g}: nothing to "
            f"suggest; look at the picture, and try other rates with --from and --to, or more --steps",
            file=sys.stderr,
        )
    return 1 if found is None else 0


def _composed(composer: Composer, settings: Sequence[str]) -> DictConfig:
    overrides = [*for_all(), *settings]
    try:
        return composer.compose(overrides)
    except ConfigError:
        if len(composer.jobs(overrides).overrides) == 1:
            raise
    raise ConfigError(f"{' '.join(settings)}: {_ONE}")


def _check(options: argparse.Namespace) -> None:
    if options.multirun:
        raise ConfigError(f"-m: {_ONE}")
    for setting in options.settings:
        key = key_of(setting)
        if key in _NOT_HERE:
            raise ConfigError(f"{setting}: {_NOT_HERE[key]}")


def _say_what_it_costs(job: TrainingJob, ramp: Ramp) -> None:
    images, hint = f"{job.data.batch_size:,}", ""
    if job.full_batch:
        images, hint = f"all {len(job.data.train):,}", "; data.train_size=1000 is quicker"
    left_out = ["the schedule"] if job.scheduler is not None else []
    left_out += ["callbacks"] if job.config.get("callbacks") else []
    if left_out:
        hint += f"; without {' and '.join(left_out)}"
    print(f"at most {ramp.steps} steps of {images} training images{hint}", file=sys.stderr)


def _figures(
    job: TrainingJob, ramp: Ramp, curve: LossCurve, found: Suggestion | None
) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "model": job.config["model"].get("_target_", "").rpartition(".")[2],
        "optimizer": job.config["optimizer"].get("_target_", "").rpartition(".")[2],
        "dataset": job.data.images.name,
        "batch_size": len(job.data.train) if job.full_batch else job.data.batch_size,
        "seed": job.seed,
        "from": ramp.low,
        "to": curve.rates[-1] if curve.rates else ramp.low,
        "steps": len(curve.rates),
        "diverged": curve.diverged,
        "suggestion": None,
    }
    if found is not None:
        new = "" if "lr" in job.config["optimizer"] else "+"
        rate = float(f"{found.rate:.2g}")
        figures |= {
            "steepest": found.steepest,
            "minimum": found.minimum,
            "at_end": found.at_end,
            "rule": found.rule,
            "suggestion": rate,
            "override": f"{new}optimizer.lr={rate:g}",
        }
    return figures


def _write(
    options: argparse.Namespace,
    config: Mapping[str, Any],
    job: TrainingJob,
    curve: LossCurve,
    found: Suggestion | None,
    figures: Mapping[str, Any],
) -> Path:
    """Write lr_find.png, lr_find.csv and lr_find.json; return their folder."""
    from cnnexp.lr_range.files import write_files
    from cnnexp.runs import claim_run_folder

    folder, key = _folder(options, config)
    make_folder(folder, key)
    place = claim_run_folder(folder).path if options.output is None else folder
    write_files(place, curve, found, {**figures, "command": sys.orig_argv, "config": job.config})
    return place


def _folder(options: argparse.Namespace, config: Mapping[str, Any]) -> tuple[Path, str]:
    """The folder that the files go into, or their own folder does; and who names it."""
    if options.output is not None:
        return options.output, "--output"
    return Path(str(config["output_dir"])) / "lr_find" / str(config["name"]), "output_dir"


def _show(
    options: argparse.Namespace, figures: Mapping[str, Any], place: Path | None = None
) -> None:
    """Print the figures, and where they are if they could be written."""
    if options.json:
        print(json.dumps({**figures, "folder": place and str(place)}, indent=2))
        return
    _print(figures)
    if place is not None:
        print(place / "lr_find.png")


def _print(figures: Mapping[str, Any]) -> None:
    print(
        f"{figures['model']}, {figures['optimizer']}: {figures['steps']} steps of {figures['batch_size']:,} "
        f"images of {figures['dataset']}, rates {figures['from']:.2g} … {figures['to']:.2g}, "
        + ("where the loss diverged" if figures["diverged"] else "without divergence")
    )
    if figures["suggestion"] is not None:
        print(f"{'steepest descent':20}{figures['steepest']:.2g}")
        print(f"{'minimum / 10':20}{figures['minimum'] / 10:.2g}")
        print(f"{'suggested':20}{figures['override']}  ({figures['rule']}, the larger of the two)")
        if figures["at_end"]:
            print("the loss still fell at the last rate: a larger one may be better, raise --to")


if __name__ == "__main__":
    main()
