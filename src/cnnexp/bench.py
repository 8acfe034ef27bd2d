"""``python -m cnnexp.bench step`` and ``ops``: time and memory of our backward beside torch's.

``step`` times whole training steps of a network: zero_grad, forward, loss, backward, Adam. ``ops``
times the forward and the backward of single ops. torch in its own layout (NCHW), in channels_last
and with torch.compile, and every algorithm of ours take turns in one process; figures are medians,
with quartiles, and ratios of medians. Compare ratios, not milliseconds of different days.

Exit codes: 0 done, 2 the command cannot work.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnnexp.commandline import (
    Misuse,
    check_writable,
    device_named,
    names_among,
    run_command,
)

if TYPE_CHECKING:
    import torch

    from cnnexp.speed import Measured
    from cnnexp.speed.single import Situation


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    run_command("cnnexp.bench", lambda: _run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnnexp.bench", description="Time our backward beside torch's."
    )
    parts = parser.add_subparsers(dest="part", required=True, metavar="{step,ops}")
    step = parts.add_parser("step", help="whole training steps of a network")
    step.add_argument(
        "--model",
        default="seed_cnn",
        help="seed_cnn (default), lenet5, vgg, resnet18, mobilenet_v3_small, vgg11 or vgg11_bn",
    )
    step.add_argument("--size", type=int, metavar="N", help="height and width of the images")
    step.add_argument("--batch", type=int, default=128, metavar="N", help="images (default: 128)")
    step.add_argument("--dtype", default="float32", help="float32 (default), bfloat16 or float64")
    single = parts.add_parser("ops", help="forward and backward of single ops")
    single.add_argument("--op", help="only these, comma-separated")
    for part, rounds in ((step, 40), (single, 15)):
        part.add_argument("--algorithm", help="only these, comma-separated; auto is one")
        part.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
        part.add_argument("--threads", type=int, help="of torch and numba (default: theirs)")
        part.add_argument("--device", default="cpu", help="cpu (default) or cuda")
        part.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
        part.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
        part.add_argument("--csv", type=Path, metavar="FILE", help="write the results to FILE")
    return parser


def _run(options: argparse.Namespace) -> int:
    check_writable("--json", options.json)
    check_writable("--csv", options.csv)
    for flag in ("rounds", "threads", "batch", "size"):
        value = getattr(options, flag, None)
        if value is not None and value < 1:
            raise Misuse(f"--{flag}={value}: must be at least 1")
    from cnnexp.kernels.compilation import said_on

    device = device_named(options.device)
    if options.threads is not None:
        _use_threads(options.threads)
    with said_on(sys.stderr):
        _measure(options, device)
    return 0


def _measure(options: argparse.Namespace, device: torch.device) -> None:
    import torch

    from cnnexp import ops, speed

    about = speed.conditions(device)
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    rows: list[Measured] = []
    compiles = not options.no_compile
    if options.part == "step":
        model = names_among("--model", options.model, list(speed.MODELS))[0]
        names = {name for op in ops.op_names() for name in ops.algorithm_names(op)} - {"reference"}
        algorithms = names_among("--algorithm", options.algorithm, [*sorted(names), ops.AUTO])
        dtype = getattr(torch, names_among("--dtype", options.dtype, _DTYPES)[0])
        least = speed.MODELS[model].least
        if options.size is not None and options.size < least:
            raise Misuse(f"--size={options.size}: {model} takes images of at least {least}")
        rows = speed.bench_step(
            model,
            options.batch,
            algorithms,
            device=device,
            dtype=dtype,
            size=options.size,
            rounds=options.rounds,
            with_compile=compiles,
        )
        _print(rows)
        speed.write_results(rows, about, options.json, options.csv)
    else:
        for situation in _situations(options):
            known = [
                n for n in ops.algorithm_names(situation.op) if n not in ("native", "reference")
            ]
            chosen = names_among(
                "--algorithm", options.algorithm, [*known, "native", ops.AUTO], some_are_enough=True
            )
            measured = speed.bench_op(
                situation, chosen, device=device, rounds=options.rounds, with_compile=compiles
            )
            _print(measured)
            rows += measured
            # written after each op, so that results are kept if a later one fails
            speed.write_results(rows, about, options.json, options.csv)


_DTYPES = ("float32", "bfloat16", "float64")


def _situations(options: argparse.Namespace) -> list[Situation]:
    from cnnexp import speed

    known = list(dict.fromkeys(situation.op for situation in speed.SITUATIONS))
    chosen = names_among("--op", options.op, known)
    return [situation for situation in speed.SITUATIONS if situation.op in chosen]


def _use_threads(count: int) -> None:
    import numba
    import torch

    most = os.cpu_count() or 1
    if count > most:
        raise Misuse(f"--threads={count}: this machine offers {most}")
    torch.set_num_threads(count)
    numba.set_num_threads(count)


def _print(rows: Sequence[Measured]) -> None:
    print(f"\n{rows[0].what}")
    parts = list(rows[0].milliseconds)
    others = list(dict.fromkeys(name for row in rows for name in row.ratios))
    head = "".join(f"{part + ' ms':>13}" for part in parts)
    print(f"  {'':22}{head}{'quartiles':>16}{'saved MB':>10}", end="")
    print("".join(f"{'/ ' + name:>22}" for name in others))
    for row in rows:
        if row.note:
            print(f"  {row.way:22}{row.note}")
            continue
        figures = "".join(f"{row.milliseconds[part]:13.3f}" for part in parts)
        quartiles = f"{row.low:.3f}–{row.high:.3f}"
        ratios = "".join(
            f"{row.ratios[name]:22.2f}" if name in row.ratios else f"{'':22}" for name in others
        )
        print(
            f"  {row.way:22}{figures}{quartiles:>16}{row.saved_megabytes:10.2f}{ratios}", flush=True
        )


if __name__ == "__main__":
    main()
