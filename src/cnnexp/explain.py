"""``python -m cnnexp.explain run=<folder> image=<number>``: one image forward and backward, as a page.

The page shows, number by number, the output of every layer for the image and the gradient of the loss on
its way back. The network is a trained one or, without ``run=``, an untrained one as ``cnnexp.train``
with the same settings would make it.

Exit codes: 0 done, 1 a file is damaged or cannot be written, 2 the command cannot work.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnnexp.commandline import run_command
from cnnexp.config import ConfigError
from cnnexp.config.key_value import text_of
from cnnexp.config.targets import allowed_prefixes
from cnnexp.postponed import quick_imports
from cnnexp.suggestions import did_you_mean

if TYPE_CHECKING:
    from cnnexp.data import ImageSet
    from cnnexp.explanation import Subject
    from cnnexp.inference import Settings, TrainedNetwork


_OWN = {"image": "0", "label": "", "output": "", "value_range": ""}
_OF_RUN = {"checkpoint": ""}  # besides run= and which=


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its code."""
    run_command("cnnexp.explain", lambda: _run(_parser().parse_intermixed_args().arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnnexp.explain",
        description="One image forward and backward through a network, as a page.",
        epilog=(
            "settings: run=<folder>|<sweep>|latest for a trained network, with checkpoint=best|last and "
            "which=best|<number>|<job id> of a sweep (default: best by validation); without it "
            "settings of cnnexp.train for an untrained one (model=lenet5 data=digits seed=3). "
            "image=<number of a test image>|<picture file> (default: 0), label=<class whose loss it is> "
            "(default: the true one; of a picture, the predicted one), output=<file> (default: "
            "explain.html in the run folder, or here), data.root=… where the images lie, "
            "value_range=[<black>,<white>] of a picture with more than 8 bits a channel, "
            "allow_targets=[mylab.]"
        ),
    )
    parser.add_argument("arguments", nargs="*", metavar="key=value | picture")
    return parser


@dataclass(frozen=True)
class _Request:
    """The request on the command line: its own settings, and those of the run or the config."""

    image: str
    label: str
    output: str
    value_range: str
    others: Sequence[str]


def _run(arguments: Sequence[str]) -> int:
    request = _read(arguments)
    trained = any(other.startswith("run=") for other in request.others)
    if request.output:
        _check_output(Path(request.output))
    network, subject, images, origin, settings = (
        _trained(request) if trained else _untrained(request)
    )
    from cnnexp.explanation import Origin, class_named, pull_of, trace, write_page
    from cnnexp.explanation.page import summary

    label = subject.true_class
    if request.label:
        label = class_named(network.classes, request.label)
    image = network.classifier.normalise(subject.pixels.unsqueeze(0))[0]
    traced = trace(network.classifier.network, image, label)
    default = network.folder.path / "explain.html"
    output = Path(request.output) if request.output else default
    command = shlex.join(["python", "-m", "cnnexp.explain", *arguments])
    if settings is not None:
        settings.say_which_run("cnnexp.explain")
    pull = pull_of(network, subject.pixels, traced.label, images)
    write_page(traced, subject, network.classes, Origin(origin, command), output, pull)
    said = summary(traced, network.classes, subject.true_class)
    print(
        f"{origin}; {subject.origin}: true class {said['true']}, predicted {said['predicted']} "
        f"({said['probability']:.2%}), loss of class {said['label']} {said['loss']:.4f}"
    )
    print(f"{output}  {output.stat().st_size:,} bytes, {len(traced.steps)} layers")
    return 0


def _read(arguments: Sequence[str]) -> _Request:
    """Split the arguments into the command's own settings, a picture given by its name only, and the rest."""
    own, others, pictures = dict(_OWN), [], []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if not equals or (not key.lstrip("+~").replace(".", "").replace("/", "").isidentifier()):
            pictures.append(argument)
        elif key in own:
            own[key] = text_of(argument)
        else:
            others.append(argument)
    if len(pictures) > 1:
        raise ConfigError(f"{' '.join(pictures)}: one image at a time, image=<number or picture>")
    if pictures:
        own["image"] = pictures[0]
    if not own["image"]:
        raise ConfigError("image=: must be the number of a test image, or a picture file")
    if own["value_range"] and _number(own["image"]) is not None:
        raise ConfigError(
            f"value_range={own['value_range']}: goes with a picture file, image=<file>; of a data set "
            f"it is data.value_range"
        )
    return _Request(**own, others=others)


def _check_output(file: Path) -> None:
    if not file.parent.is_dir():
        raise ConfigError(f"output={file}: there is no folder {file.parent}")
    if file.is_dir():
        raise ConfigError(f"output={file}: is a folder; name a file, output={file}/explain.html")


def _trained(
    request: _Request,
) -> tuple[TrainedNetwork, Subject, ImageSet | None, str, Settings]:
    with quick_imports():
        from cnnexp.explanation import numbered_image, picture
        from cnnexp.inference import data_of_run, read_settings

    settings = read_settings(request.others, {**_OF_RUN, **_OWN}, data=True)
    trained = settings.load("direct")
    trained.require_classes("cnnexp.explain")
    number, images = _number(request.image), None
    if number is None:
        subject = picture(trained, Path(request.image), request.value_range)
    else:
        images = data_of_run(trained, settings.data, settings.extra_targets).images
        subject = numbered_image(images, number)
    origin = f"{trained.folder}, {trained.checkpoint} of epoch {trained.epoch}"
    return trained, subject, images, origin, settings


def _untrained(request: _Request) -> tuple[TrainedNetwork, Subject, ImageSet, str, None]:
    for other in request.others:
        if other.startswith(("checkpoint=", "which=")):
            raise ConfigError(
                f"{other}: goes with run=<folder>; without it the network is untrained"
            )
    with quick_imports():
        from cnnexp.explanation import load_untrained, numbered_image, picture

    try:
        network, images = load_untrained(request.others, allowed_prefixes(request.others))
    except ConfigError as error:
        raise _with_own_keys(error, request.others) from error
    if images.targets != "classes":
        raise ConfigError(
            f"data: {images.name} has {images.targets}, not one class an image, which cnnexp.explain needs"
        )
    if images.notice:
        print(images.notice, file=sys.stderr)
    number = _number(request.image)
    if number is None:
        subject = picture(network, Path(request.image), request.value_range)
    else:
        subject = numbered_image(images, number)
    origin = f"{network.config['name']}, untrained, seed {network.config['seed']}"
    return network, subject, images, origin, None


def _with_own_keys(error: ConfigError, others: Sequence[str]) -> ConfigError:
    """``error`` of the config, with a hint if a key resembles one of this command's own, unknown to it."""
    text = str(error)
    for key in (other.partition("=")[0] for other in others):
        hint = did_you_mean(key, [*_OWN, *_OF_RUN, "run"])
        if hint and f"'{key}'" in text and "Did you mean" not in text:
            return ConfigError(f"{text}{hint}")
    return error


def _number(image: str) -> int | None:
    """The number of a test image; None where ``image`` names a picture."""
    try:
        return int(image)
    except ValueError:
        return None


if __name__ == "__main__":
    main()
