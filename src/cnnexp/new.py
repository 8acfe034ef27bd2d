"""``python -m cnnexp.new <name>``: a small package of your own, with configs, that trains and sweeps.

It has a network, a data set, an optimiser, a regulariser, a recipe, a test and a Makefile, all to be changed.
Nothing that is there is written over, and nothing is left half-written.

Exit codes: 0 done, 1 it cannot be written, 2 the command cannot work.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cnnexp.commandline import run_command


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    run_command("cnnexp.new", lambda: _run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnnexp.new",
        description="Make a small package of your own, with configs, that trains and sweeps at once.",
        epilog="then: cd <name>; python -m <name> experiment=first; make test",
    )
    parser.add_argument(
        "folder", type=Path, metavar="name", help="of the package and its new folder"
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    from cnnexp.scaffold import make_package

    made = make_package(options.folder)
    name = options.folder.name
    print(f"{options.folder}: {len(made)} files")
    for file in made:
        print(f"  {file}")
    print(f"Next:\n  cd {options.folder}\n  python -m {name} experiment=first\n  make test")
    return 0


if __name__ == "__main__":
    main()
