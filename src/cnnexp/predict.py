"""``python -m cnnexp.predict run=<folder> image.png folder/``: the classes that a network predicts.

It takes PNG, JPEG and everything else that Pillow reads, of any size and colour. For networks that were
trained on handwritten characters, the character is found, dark on light or light on dark, and brought
to the form of the training images.

Exit codes: 0 done, 1 some pictures cannot be read (one line each; the others are classified) or a file of
the run is damaged, 2 the command cannot work.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnnexp.commandline import run_command
from cnnexp.config import ConfigError
from cnnexp.postponed import quick_imports

if TYPE_CHECKING:
    from cnnexp.inference import Prediction


_KEYS = {"checkpoint": "", "value_range": ""}


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its code."""
    run_command("cnnexp.predict", lambda: _run(_parser().parse_intermixed_args()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnnexp.predict",
        description="What a trained network takes pictures for.",
        epilog=(
            "settings: run=<folder>|<sweep>|latest, which=best|<number>|<job id> of a sweep (default: best "
            "by validation), checkpoint=best|last, value_range=[<black>,<white>] of pictures with more "
            "than 8 bits a channel, allow_targets=[mylab.]"
        ),
    )
    parser.add_argument("arguments", nargs="*", metavar="key=value | picture | folder")
    parser.add_argument("--top", type=int, default=3, help="classes to name (default: 3)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--as",
        dest="form",
        choices=("character", "picture"),
        help="one character to be found, or the whole picture (default: by the data set)",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    settings, places = _sorted_out(options.arguments)
    if not places:
        raise ConfigError("there are no pictures: name files or folders after run=…")
    if options.top < 1:
        raise ConfigError(f"--top={options.top}: must be at least 1")
    with quick_imports():
        from cnnexp.inference import picture_files, predict, read_settings, stated_range

    given = read_settings(settings, _KEYS)
    trained = given.load()
    trained.require_classes("cnnexp.predict")
    files = list(picture_files(places))
    characters = None if options.form is None else options.form == "character"
    given.say_which_run("cnnexp.predict", always=True)  # no other line names the run
    predictions = predict(
        trained,
        files,
        top=options.top,
        characters=characters,
        value_range=stated_range(trained, given.values["value_range"]),
    )
    if options.json:
        found = list(predictions)
        print(json.dumps([_as_json(each) for each in found], indent=2))
        return 1 if any(each.error for each in found) else 0
    failed = False
    for each in predictions:
        if each.error:
            sys.stdout.flush()
            print(f"cnnexp.predict: {each.error}", file=sys.stderr)
            failed = True
        else:
            print(_line(each))
    return 1 if failed else 0


def _sorted_out(arguments: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Split the arguments into settings and pictures.

    A setting has a key before its ``=``, and is not the name of a file.
    """
    settings, places = [], []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if equals and key.isidentifier() and not Path(argument).exists():
            settings.append(argument)
        else:
            places.append(Path(argument))
    return settings, places


def _line(prediction: Prediction) -> str:
    (best, sure), *others = prediction.top
    rest = ", ".join(f"{name} {share:.2%}" for name, share in others)
    return f"{prediction.file}  {best}  {sure:.2%}" + (f"  ({rest})" if rest else "")


def _as_json(prediction: Prediction) -> dict[str, object]:
    if prediction.error:
        return {"file": str(prediction.file), "error": prediction.error}
    top = [{"class": name, "probability": share} for name, share in prediction.top]
    return {"file": str(prediction.file), "top": top}


if __name__ == "__main__":
    main()
