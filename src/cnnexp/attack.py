"""``python -m cnnexp.attack run=<folder>``: how much a trained network gives away about its images.

``method=loss`` and ``method=lira`` infer which images the run was trained on, from the losses alone or with
shadow trainings; ``method=audit`` trains once more, with canaries, and bounds the ε of the training from
below. Each writes attack.json and attack.html.

Exit codes: 0 done, 1 a file is damaged or a training has failed, 2 the command cannot work, 130 stopped by
Ctrl-C; the same command then resumes.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnnexp.commandline import run_command
from cnnexp.config import ConfigError
from cnnexp.postponed import quick_imports

if TYPE_CHECKING:
    from cnnexp.attacks.on_runs import Attack, Target
    from cnnexp.inference import Settings


_DEFAULTS = {"method": "loss", "checkpoint": "", "shadows": "", "canaries": "", "delta": ""}
_DEFAULTS |= {"canary": "", "seed": "0", "jobs": "", "threads": "", "output": ""}
_GO_WITH = {  # the settings that go with some methods alone
    "shadows": ("lira",),
    "jobs": ("lira",),
    "canaries": ("audit",),
    "canary": ("audit",),
    "delta": ("audit",),
    "threads": ("lira", "audit"),
}
_METHODS = ("loss", "lira", "audit")
_SHADOWS, _CANARIES, _DELTA = 16, 1000, 1e-5


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its code."""
    run_command("cnnexp.attack", lambda: _run(_parser().parse_intermixed_args().settings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnnexp.attack",
        description="How much a trained network gives away about its images.",
        epilog=(
            "settings: run=<folder>|<sweep>|latest, which=best|<number>|<job id> of a sweep, "
            "method=loss (membership by a threshold on the loss; the default), method=lira (by the "
            f"likelihood ratio with shadows=<number of trainings>, default {_SHADOWS}, jobs=<how many at a "
            f"time>), method=audit (a lower bound on ε by one training with canaries=<number>, default "
            f"{_CANARIES:,} or half the training images, canary=pattern|label (random patterns, or training "
            f"images with wrong labels), and delta=, default the run's, or {_DELTA:g}), "
            "threads=<processor threads of a training>, "
            "checkpoint=best|last (default: best; of an audit last), seed=0, data.root=… where the run's "
            "images lie, output=<folder> (default: outputs/attacks/<name>/<time>/<method>), "
            "output_dir=outputs, allow_targets=[mylab.]"
        ),
    )
    parser.add_argument("settings", nargs="*", metavar="key=value")
    return parser


def _run(arguments: Sequence[str]) -> int:
    with quick_imports():
        from cnnexp.inference import load_trained, read_settings
        from cnnexp.kernels.compilation import said_on

    settings = read_settings(arguments, _DEFAULTS, data=True)
    values = settings.values
    _check_method(values)
    whole = ("shadows", "canaries", "seed", "jobs", "threads")
    numbers = {key: _whole(key, values[key]) for key in whole}
    last = "last" if values["method"] == "audit" else None
    trained = load_trained(
        settings.folder,
        values["checkpoint"] or last,
        backward="auto",
        extra_targets=settings.extra_targets,
    )
    trained.require_classes("cnnexp.attack")
    from cnnexp.attacks.on_runs import Target

    target = Target.of_run(trained, settings.data, settings.extra_targets)
    place = _place(settings, arguments)
    settings.say_which_run("cnnexp.attack")
    if target.data.images.notice:
        print(target.data.images.notice, file=sys.stderr)
    with said_on(sys.stderr):
        found = _attack(target, values, numbers, place)
    command = shlex.join(["python", "-m", "cnnexp.attack", *arguments])
    _write(target, found, values["method"], command, place)
    return 0


def _check_method(values: Mapping[str, str]) -> None:
    method = values["method"]
    if method not in _METHODS:
        raise ConfigError(f"method={method}: must be one of {', '.join(_METHODS)}")
    for key, methods in _GO_WITH.items():
        if values[key] and method not in methods:
            raise ConfigError(
                f"{key}={values[key]}: goes with method={' or '.join(methods)}, not {method}"
            )


def _whole(key: str, value: str) -> int | None:
    """The number that ``key`` has; None if it is not given."""
    if not value or (key, value) == ("jobs", "auto"):
        return None
    if not value.isdecimal():
        raise ConfigError(f"{key}={value}: must be a whole number, at least 0")
    return int(value)


def _place(settings: Settings, arguments: Sequence[str]) -> Path:
    """The folder that is to get attack.json and attack.html."""
    run, method = settings.folder.path.resolve(), settings.values["method"]
    given = settings.values["output"]
    above = [a.partition("=")[2] for a in arguments if a.startswith("output_dir=")]
    default = Path(above[-1] if above else "outputs") / "attacks" / run.parent.name / run.name
    place = Path(given) if given else default / method
    there = next(part for part in (place, *place.parents) if part.exists())
    if not there.is_dir():
        raise ConfigError(
            f"output={place}: {there} is no folder; name a folder for the attack's files"
        )
    return place


def _attack(
    target: Target, values: Mapping[str, str], numbers: Mapping[str, int | None], place: Path
) -> Attack:
    from cnnexp.attacks.canaries import Canaries
    from cnnexp.attacks.on_runs import attack_by_audit, attack_by_loss, attack_by_shadows
    from cnnexp.sweeps.launcher import LauncherSettings

    seed = numbers["seed"] or 0
    if values["method"] == "loss":
        return attack_by_loss(target, seed=seed)
    # the launcher says which trainings run
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    jobs, threads = numbers["jobs"], numbers["threads"]
    if values["method"] == "lira":
        shadows = numbers["shadows"]
        launcher = LauncherSettings(jobs="auto" if jobs is None else jobs, threads=threads)
        number = _SHADOWS if shadows is None else shadows
        return attack_by_shadows(target, place, shadows=number, seed=seed, settings=launcher)
    canaries = numbers["canaries"]
    if canaries is None:
        canaries = min(_CANARIES, len(target.data.train) // 2)
    delta = _delta(values["delta"], target.claim())
    launcher = LauncherSettings(jobs=1, threads=threads)
    asked = Canaries(canaries, values["canary"] or "pattern", seed)
    return attack_by_audit(target, place, canaries=asked, delta=delta, settings=launcher)


def _delta(given: str, claim: Mapping[str, float]) -> float:
    if not given:
        return claim.get("delta", _DELTA)
    try:
        delta = float(given)
    except ValueError:
        delta = -1.0
    if not 0 <= delta < 1:
        raise ConfigError(f"delta={given}: must be a number from 0 to below 1, such as 1e-5")
    if claim and delta != claim["delta"]:
        raise ConfigError(
            f"delta={given}: the run claims its ε at δ = {claim['delta']:g}, with which a bound at another δ "
            f"does not compare; leave delta= out"
        )
    return delta


def _write(target: Target, found: Attack, method: str, command: str, place: Path) -> None:
    """Print the figures, and write attack.json and attack.html."""
    from cnnexp.attacks.attack_page import write_attack_page
    from cnnexp.attacks.summary import content_of, rows_of
    from cnnexp.runs.files import write_json

    content = content_of(target, found, method, command)
    rows = rows_of(content)
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / "attack.json", content)
    write_attack_page(content, rows, place / "attack.html")
    print(f"{content['run']}  {content['checkpoint']}, epoch {content['epoch']}")
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        print(f"{name:{width}}{value}")
    print(content["verdict"])
    print(place / "attack.html")


if __name__ == "__main__":
    main()
