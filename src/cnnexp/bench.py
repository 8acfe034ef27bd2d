"""``python -m cnnexp.bench step|net|ops|scale``: time and memory of our backward beside torch's.

``step`` times whole training steps of a network: zero_grad, forward, loss, backward, Adam. ``net``
times those of several networks, ours or torchvision's, by ``auto`` and by every way of torch, and says
for each how it stands to torch's best, at all and in each precision. ``ops`` times the forward and the
backward of single ops. ``scale`` shows how cost grows with the number of images, batch, width, depth, image
size and threads, and how near the article's layers come to what the machine can do.

torch in its own layout (NCHW), in channels_last and with torch.compile, every algorithm of ours, and ``auto``
with torch.compile take turns in one process; figures are medians, with quartiles, and ratios of medians.
``scale`` has torch's channels_last alone. Compare ratios, not milliseconds of different days. Of a step there
is also the memory: what the forward saves for the backward, and the peak, which is how far one step raises
the process's resident memory (on a GPU that of torch's tensors) above what it holds between steps.

``net`` checks the promise of ``auto``: nowhere more than 2 % slower than torch in the same precision and
layout, which it must be beyond what chance may do to count as broken.

Exit codes: 0 done, 1 the promise is broken, 2 the command cannot work.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnexp.commandline import (
    Misuse,
    check_writable,
    device_named,
    name_among,
    names_among,
    run_command,
)
from cnnexp.postponed import quick_imports

if TYPE_CHECKING:
    import torch

    from cnnexp.speed import Comparison, Measured
    from cnnexp.speed.single import Situation


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    run_command("cnnexp.bench", lambda: _run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnnexp.bench", description="Time our backward beside torch's."
    )
    parts = parser.add_subparsers(dest="part", required=True, metavar="{step,net,ops,scale}")
    step = parts.add_parser("step", help="whole training steps of a network")
    step.add_argument(
        "--model",
        default="seed_cnn",
        help="seed_cnn (default), lenet5, tiny, vgg, or any of torchvision's: resnet18, vgg11, …",
    )
    net = parts.add_parser("net", help="whole networks: auto beside torch's best way")
    net.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help="seed_cnn, lenet5, tiny, vgg, mnist_example, cifar_tutorial, cifar_resnet18, or any of "
        "torchvision's (default: these seven and four of torchvision's)",
    )
    for part, batch in ((step, 128), (net, 32)):
        part.add_argument("--size", type=int, metavar="N", help="height and width of the images")
        part.add_argument(
            "--batch", type=int, default=batch, metavar="N", help=f"images (default: {batch})"
        )
    step.add_argument("--dtype", default="float32", help="float32 (default), bfloat16 or float64")
    single = parts.add_parser("ops", help="forward and backward of single ops")
    single.add_argument("--op", help="only these, comma-separated")
    step.add_argument(
        "--recompute", action="store_true", help="measure fused and auto with recompute, too"
    )
    for part in (step, single):
        part.add_argument("--algorithm", help="only these, comma-separated; auto is one")
    scale = parts.add_parser("scale", help="how cost grows, and the distance from the roofline")
    _add_scale(scale)
    for part in (step, net, single):
        part.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    for part, rounds in ((step, 40), (net, 15), (single, 15), (scale, 15)):
        part.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
        part.add_argument("--threads", type=int, help="of torch and numba (default: theirs)")
        part.add_argument("--device", default="cpu", help="cpu (default) or cuda")
        part.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
        part.add_argument("--csv", type=Path, metavar="FILE", help="write the results to FILE")
    return parser


def _add_scale(part: argparse.ArgumentParser) -> None:
    axes = "data, batch, width, depth, size, threads, roofline"
    part.add_argument("--axis", help=f"only these, comma-separated: {axes}")
    part.add_argument("--values", metavar="N,N…", help="where to measure along the one --axis")
    part.add_argument(
        "--batch", type=int, default=16, metavar="N", help="images of steps (default: 16)"
    )
    part.add_argument("--algorithm", default="auto", help="of ours, comma-separated; default: auto")
    part.add_argument(
        "--limit",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="of the rounds of one value: fewer rounds, or none, where they take longer (default: 10)",
    )
    part.add_argument("--folder", type=Path, help="where mapped files lie while they are measured")


def _run(options: argparse.Namespace) -> int:
    check_writable("--json", options.json)
    check_writable("--csv", options.csv)
    for flag in ("rounds", "threads", "batch", "size"):
        value = getattr(options, flag, None)
        if value is not None and value < 1:
            raise Misuse(f"--{flag}={value}: must be at least 1")
    with quick_imports():
        from cnnexp.kernels.compilation import said_on

    device = device_named(options.device)
    if options.threads is not None:
        _use_threads(options.threads)
    with said_on(sys.stderr):
        kept = _measure(options, device)
    return 0 if kept else 1


def _measure(options: argparse.Namespace, device: torch.device) -> bool:
    """Measure, print and write; whether what is promised was kept."""
    with quick_imports():
        import torch

        from cnnexp import ops, speed

    about = speed.conditions(device)
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    rows: list[Measured] = []
    if options.part == "step":
        names = {name for op in ops.op_names() for name in ops.algorithm_names(op)} - {"reference"}
        algorithms = names_among("--algorithm", options.algorithm, [*sorted(names), ops.AUTO])
        dtype = getattr(torch, name_among("--dtype", options.dtype, _DTYPES))
        model = name_among("--model", options.model, speed.known_networks())
        _check_size(options.size, model)
        if dtype == torch.float32:
            _say_what_is_left_out(device)
        rows = _steps(options, model, algorithms, device, dtype)
        _print(rows)
        speed.write_results(rows, about, options.json, options.csv)
    elif options.part == "scale":
        _scale(options, device, about)
    elif options.part == "net":
        chosen = names_among("name", ",".join(options.names) or None, speed.known_networks())
        chosen = chosen if options.names else list(speed.MODELS)
        for model in chosen:
            _check_size(options.size, model)
        _say_what_is_left_out(device)
        comparisons: list[Comparison] = []
        for model in chosen:
            measured = _steps(options, model, [ops.AUTO], device, torch.float32)
            comparisons.append(speed.compare(measured))
            rows += measured
            precisions = speed.compare_by_precision(measured)
            _print_comparison(comparisons[-1], precisions, with_head=len(comparisons) == 1)
            speed.write_results(rows, about, options.json, options.csv)
        _print_verdicts(comparisons)
        return _print_promise(rows)
    else:
        for situation, chosen in _algorithms_of(options):
            measured = speed.bench_op(
                situation,
                chosen,
                device=device,
                rounds=options.rounds,
                with_compile=not options.no_compile,
            )
            _print(measured)
            rows += measured
            # written after each op, so that results are kept if a later one fails
            speed.write_results(rows, about, options.json, options.csv)
    return True


def _algorithms_of(options: argparse.Namespace) -> Iterator[tuple[Situation, list[str]]]:
    """The situations, and which of the algorithms that are asked for each has."""
    from cnnexp import ops

    situations = [(each, ops.algorithm_names(each.op)) for each in _situations(options)]
    every = {name for _, names in situations for name in names} - {"reference"}
    wanted = names_among("--algorithm", options.algorithm, [*sorted(every), ops.AUTO])
    for situation, names in situations:
        chosen = [name for name in wanted if name in names]
        if chosen or wanted == [ops.AUTO]:
            yield situation, [*chosen, *([ops.AUTO] if ops.AUTO in wanted else [])]


def _scale(options: argparse.Namespace, device: torch.device, about: Mapping[str, Any]) -> None:
    """Measure along each axis, and print and write each row as it comes."""
    from cnnexp import ops, speed

    axes = names_among("--axis", options.axis, speed.AXES)
    values = _values(options, axes)
    names = {name for op in ops.op_names() for name in ops.algorithm_names(op)} - {"reference"}
    algorithms = names_among("--algorithm", options.algorithm, [*sorted(names), ops.AUTO])
    if not options.limit > 0:
        raise Misuse(f"--limit={options.limit:g}: must be above 0")
    if options.folder is not None and not options.folder.is_dir():
        raise Misuse(f"--folder={options.folder}: there is no such folder")
    settings = speed.ScaleSettings(
        device, options.batch, algorithms, options.rounds, options.limit, options.folder
    )
    rows: list[speed.Scaled] = []
    for axis in axes:
        for row in speed.bench_scale(axis, values or speed.values_of(axis), settings):
            if not rows or rows[-1].axis != row.axis:
                print(speed.head_of(row))
            print(speed.line_of(row), flush=True)
            rows.append(row)
            speed.write_results(rows, about, options.json, options.csv)


def _values(options: argparse.Namespace, axes: Sequence[str]) -> list[int]:
    """The numbers of ``--values``; none if it is not given."""
    from cnnexp import speed

    if options.values is None:
        return []
    if len(axes) != 1 or not speed.values_of(axes[0]):
        along = ", ".join(axis for axis in speed.AXES if speed.values_of(axis))
        raise Misuse(f"--values={options.values}: needs one --axis of {along}")
    least = speed.least_value(axes[0])
    try:
        values = [int(each) for each in options.values.split(",")]
    except ValueError:
        values = [0]
    if min(values) < least:
        raise Misuse(
            f"--values={options.values}: must be whole numbers, comma-separated, of at least {least}"
        )
    return values


def _check_size(size: int | None, model: str) -> None:
    from cnnexp import speed

    known = speed.network_named(model)
    if size is not None and size < known.least:
        raise Misuse(f"--size={size}: {model} takes images of at least {known.least}")
    if size is not None and known.most is not None and size > known.most:
        raise Misuse(f"--size={size}: {model} takes images of {known.most}; leave --size out")


def _say_what_is_left_out(device: torch.device) -> None:
    from cnnexp.tuning import multiplies_bfloat16

    if not multiplies_bfloat16(device):
        print("bfloat16 is left out: this device has no instructions for its products", flush=True)


def _steps(
    options: argparse.Namespace,
    model: str,
    algorithms: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
) -> list[Measured]:
    from cnnexp import speed

    try:
        return speed.bench_step(
            model,
            options.batch,
            algorithms,
            device=device,
            dtype=dtype,
            size=options.size,
            rounds=options.rounds,
            with_compile=not options.no_compile,
            with_recompute=options.part == "step" and options.recompute,
        )
    except ValueError as error:
        raise Misuse(str(error)) from error


_DTYPES = ("float32", "bfloat16", "float64")


def _situations(options: argparse.Namespace) -> list[Situation]:
    from cnnexp import speed

    known = list(dict.fromkeys(situation.op for situation in speed.SITUATIONS))
    chosen = names_among("--op", options.op, known)
    return [situation for situation in speed.SITUATIONS if situation.op in chosen]


def _use_threads(count: int) -> None:
    from cnnexp.kernels.threads import offered_threads, use_threads

    most = offered_threads()
    if count > most:
        raise Misuse(f"--threads={count}: this machine offers {most}")
    use_threads(count)


_WAY = 33  # columns: "cnnexp recompute, auto, bfloat16" and a space


def _print(rows: Sequence[Measured]) -> None:
    print(f"\n{rows[0].what}")
    parts = list(rows[0].milliseconds)
    others = list(dict.fromkeys(name for row in rows for name in row.ratios))
    head = "".join(f"{part + ' ms':>13}" for part in parts)
    with_peak = any(row.peak_megabytes is not None for row in rows)
    peaks = f"{'peak MB':>10}" if with_peak else ""
    print(f"  {'':{_WAY}}{head}{'quartiles':>20}{'saved MB':>10}{peaks}", end="")
    print("".join(f"{'/ ' + name:>22}" for name in others))
    for row in rows:
        if row.note:
            print(f"  {row.way:31}{row.note}")
            continue
        figures = "".join(f"{row.milliseconds[part]:13.3f}" for part in parts)
        quartiles = f"{row.low:.3f}–{row.high:.3f}"
        ratios = "".join(
            f"{row.ratios[name]:22.2f}" if name in row.ratios else f"{'':22}" for name in others
        )
        memory = f"{row.saved_megabytes:10.2f}"
        if with_peak:
            memory += "         –" if row.peak_megabytes is None else f"{row.peak_megabytes:10.1f}"
        print(f"  {row.way:{_WAY}}{figures}{quartiles:>20}{memory}{ratios}", flush=True)


def _print_comparison(
    found: Comparison, precisions: Mapping[str, Comparison], with_head: bool
) -> None:
    if with_head:
        names = (
            ("", 44),
            ("torch's best", 26),
            ("ms", -8),
            ("  ours", 26),
            ("ms", -8),
            ("ratio", -8),
            ("float32", -10),
            ("bfloat16", -10),
            ("saved", -8),
            ("peak", -8),
        )
        cells = [name.ljust(w) if w > 0 else name.rjust(-w) for name, w in names]
        print("\n  " + "".join(cells))
    theirs, ours = found
    each = [precisions.get(name) for name in ("full", "bfloat16")]
    ratios = [None if one is None else one.ratio for one in each]
    cells = [f"{'–' if ratio is None else f'{ratio:.2f}':>10}" for ratio in ratios]
    peak = "–" if found.peak_ratio is None else f"{found.peak_ratio:.2f}"
    what = theirs.what.removeprefix("step ").removesuffix(", float32")
    print(
        f"  {what:44}{theirs.way.removeprefix('torch '):26}{theirs.milliseconds['full']:8.1f}  "
        f"{ours.way.removeprefix('cnnexp '):24}{ours.milliseconds['full']:8.1f}{found.ratio:8.2f}"
        f"{''.join(cells)}{found.saved_ratio:8.2f}{peak:>8}  {found.verdict}",
        flush=True,
    )


def _print_verdicts(comparisons: Sequence[Comparison]) -> None:
    from cnnexp.speed.best import EQUAL

    verdicts = [each.verdict for each in comparisons]
    counts = (f"{verdicts.count(v)} {v}" for v in ("faster", "the same", "slower"))
    print(f"\nof {len(verdicts)}: {', '.join(counts)} (within {EQUAL:.0%})")
    print(
        "ratio: our time by torch's; float32, bfloat16: that of the best ways in it; saved: our bytes kept "
        "for the backward by torch's, peak: how far a step raises the memory, in these ways"
    )


def _print_promise(rows: Sequence[Measured]) -> bool:
    """Say where ``auto`` is slower than it promises; whether it is nowhere."""
    from cnnexp.speed.best import PROMISE, broken_promises

    broken = broken_promises(rows)
    kept = "kept" if any(row.paired for row in rows) else "not tested: needs --rounds of 5 or more"
    print(
        f"\npromise of auto (at most {PROMISE:.2f} × torch in the same precision and layout): "
        f"{'broken' if broken else kept}"
    )
    for row in broken:
        assert row.paired is not None
        ratio, low, high = row.paired
        print(f"  {row.what}: {row.way} {ratio:.3f} ({low:.3f} to {high:.3f}) × {row.beside}")
    return not broken


if __name__ == "__main__":
    main()
