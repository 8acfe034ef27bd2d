"""``python -m cnnexp.diagnose run=<folder>``: did this training learn and, if not, why, and what to try?

The run may be done, stopped, failed or still running. The verdict is printed, and written as one page,
diagnosis.html in the run folder; ``--try`` trains some steps with the first suggestion.

Exit codes: 0 done, whatever the verdict; 1 a file is damaged or cannot be written; 2 the command cannot work.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cnnexp.commandline import Misuse, check_writable, run_command
from cnnexp.postponed import quick_imports

_STEPS = 100


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    given = sys.argv[1:] if arguments is None else arguments
    run_command("cnnexp.diagnose", lambda: _run(_parser().parse_intermixed_args(given), given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnnexp.diagnose",
        description="Did a training learn and, if not, why, and what to try?",
        epilog=(
            "settings: run=<folder>|<sweep>|latest, which=best|<number>|<job id> of a sweep (default: best "
            "by validation), output=<file> (default: diagnosis.html in the run folder), output_dir=outputs, "
            "allow_targets=[mylab.]"
        ),
    )
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument(
        "--json", action="store_true", help="print the verdict and its evidence as JSON instead"
    )
    parser.add_argument(
        "--try",
        dest="steps",
        nargs="?",
        type=int,
        const=_STEPS,
        metavar="STEPS",
        help=f"train STEPS steps (default: {_STEPS}) with the first suggestion, and compare the loss",
    )
    return parser


def _run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    if options.steps is not None and not 1 <= options.steps <= 100_000:
        raise Misuse(f"--try {options.steps}: must be 1 to 100000 steps")
    with quick_imports():
        from cnnexp.inference.settings import read_settings

    settings = read_settings(options.settings, {"output": ""})
    page = Path(settings.values["output"] or settings.folder.path / "diagnosis.html")
    check_writable("output", page)
    from cnnexp.diagnosis import diagnose_run, try_suggestion
    from cnnexp.diagnosis.diagnosis_page import write_diagnosis_page
    from cnnexp.diagnosis.terminal import as_text
    from cnnexp.runs.files import json_text

    settings.say_which_run("cnnexp.diagnose")
    found = diagnose_run(settings.folder)
    tryout = None
    if options.steps is not None:
        tryout = try_suggestion(found, options.steps, settings.extra_targets)
        if tryout is None:
            print("cnnexp.diagnose: --try: no suggestion is a setting to try", file=sys.stderr)
    content = {**found.as_dict(), "tryout": None if tryout is None else tryout.as_dict()}
    write_diagnosis_page(
        found, tryout, page, shlex.join(["python", "-m", "cnnexp.diagnose", *arguments])
    )
    if options.json:
        print(json_text(content), end="")
        return 0
    print(as_text(found, tryout, colour=sys.stdout.isatty()))
    print(page)
    return 0


if __name__ == "__main__":
    main()
