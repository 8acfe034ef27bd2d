"""``python -m cnnexp.grade <op> <file>``: is this backward right, and if not, what is wrong?

The file has ``forward`` and ``backward`` (numpy or torch), an autograd Function or a Module; ``--template
<op>`` writes one to fill in. It runs in a process of its own, with limits of time and memory. Every output
and gradient is compared with cnnexp's own in float64; a mistake gets its name, the right formula, and the
smallest call that shows it.

Exit codes: 0 right, 1 wrong or without an answer, 2 the command cannot work.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnnexp.commandline import Misuse, check_writable, run_command
from cnnexp.postponed import quick_imports

if TYPE_CHECKING:
    from cnnexp.grading import Grade


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    run_command("cnnexp.grade", lambda: _run(_parser().parse_args(arguments), arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnnexp.grade",
        description="Judge a backward that somebody has written, and name what is wrong.",
        epilog="ops: conv2d, max_pool2d, avg_pool2d, relu, linear, batch_norm, cross_entropy, conv_relu_pool",
    )
    parser.add_argument("op", nargs="?", help="what the file is a backward of")
    parser.add_argument("file", nargs="?", type=Path, help="the Python file")
    parser.add_argument("--template", metavar="OP", help="write <OP>.py, or FILE, to fill in")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the grade to FILE")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page to FILE")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="that the file may take (default: 30)"
    )
    parser.add_argument(
        "--memory", type=int, default=1024, help="MiB that the file may take (default: 1024)"
    )
    return parser


def _run(options: argparse.Namespace, arguments: Sequence[str] | None) -> int:
    if options.template is not None:
        return _write_template(options)
    if options.op is None or options.file is None:
        raise Misuse("which op and which file? python -m cnnexp.grade conv2d my_layer.py")
    check_writable("--json", options.json)
    check_writable("--html", options.html)
    if not 0 < options.seconds <= 3600:
        raise Misuse(f"--seconds={options.seconds:g}: must be above 0 and at most 3600")
    if not 16 <= options.memory <= 2**20:
        raise Misuse(f"--memory={options.memory}: must be 16 to 1048576 MiB")
    with quick_imports():
        from cnnexp.grading import Limits, grade_file

    made = grade_file(options.op, options.file, limits=Limits(options.seconds, options.memory))
    _report(made, options, sys.argv[1:] if arguments is None else arguments)
    return 0 if made else 1


def _report(made: Grade, options: argparse.Namespace, arguments: Sequence[str]) -> None:
    from cnnexp.grading.show import as_text

    print(as_text(made, colour=sys.stdout.isatty()))
    if options.json is not None:
        from cnnexp.runs.files import json_text, write_named

        write_named(options.json, json_text(made.as_dict()))
    if options.html is not None:
        from cnnexp.grading.page import write_page

        write_page(made, options.html, shlex.join(["python", "-m", "cnnexp.grade", *arguments]))
        print(options.html)


def _write_template(options: argparse.Namespace) -> int:
    from cnnexp.grading.grader import check_op
    from cnnexp.grading.template import template

    check_op(options.template)
    named = options.file or (Path(options.op) if options.op else None)
    file = named or Path(f"{options.template}.py")
    check_writable("--template", file)
    if file.exists():
        raise Misuse(
            f"{file}: is there already; name another file after --template {options.template}"
        )
    file.write_text(template(options.template), encoding="utf-8")
    print(file)
    return 0


if __name__ == "__main__":
    main()
