"""``python -m cnnexp.export run=<folder> format=onnx``: write a trained network for other programs.

Formats: onnx, torch_export, safetensors. The exported network takes images in 0…1 and is checked to give
the same logits before the file gets its name.

Exit codes: 0 done, 1 it cannot be exported or a file of the run is damaged, 2 the command cannot work.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cnnexp.commandline import run_command
from cnnexp.postponed import quick_imports

_DEFAULTS = {"checkpoint": "", "format": "onnx", "output": ""}


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its code."""
    run_command("cnnexp.export", lambda: _run(_parser().parse_intermixed_args()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnnexp.export",
        description="Write a trained network for other programs.",
        epilog=(
            "settings: run=<folder>|<sweep>|latest, which=best|<number>|<job id> of a sweep (default: best "
            "by validation), format=onnx|torch_export|safetensors (default: onnx), "
            "output=<file> (default: model.<ending> in the run folder), checkpoint=best|last, "
            "allow_targets=[mylab.]"
        ),
    )
    parser.add_argument("settings", nargs="*", metavar="key=value")
    return parser


def _run(options: argparse.Namespace) -> int:
    with quick_imports():
        from cnnexp.inference import export, read_settings

    settings = read_settings(options.settings, _DEFAULTS)
    values = settings.values
    trained = settings.load()
    output = Path(values["output"]) if values["output"] else None
    file, difference = export(trained, values["format"], output)
    settings.say_which_run("cnnexp.export")
    print(
        f"{file}  {file.stat().st_size:,} bytes, from {trained.folder}, {trained.checkpoint} of "
        f"epoch {trained.epoch}; "
        f"logits within {difference:.1e} of torch's"
    )
    return 0


if __name__ == "__main__":
    main()
