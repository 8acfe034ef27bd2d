"""``python -m cnnexp.gradcheck``: prove the backward of every op, algorithm and dtype.

For every op and algorithm, in float64: hundreds of random calls against torch (values, gradients,
refusals), then small calls against finite differences, with the derivative of the gradient; in
float32, bfloat16 and float16 the error against float64 beside torch's own. The last check is the negative
control: gradients that are wrong by one per mille must be caught, or the check is worth nothing.

Exit codes: 0 all proved, 1 something is wrong, 2 the command cannot work.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnexp.commandline import check_writable, device_named, names_among, run_command
from cnnexp.postponed import quick_imports

if TYPE_CHECKING:
    from cnnexp.proofs import Case, Report
    from cnnexp.proofs.battery import Row


def check(
    function: Callable[..., Any], cases: Iterable[Case | Sequence[Any]], **options: Any
) -> Report:
    """Prove a function or Module of your own; see :func:`cnnexp.proofs.check` and its options."""
    from cnnexp import proofs

    return proofs.check(function, cases, **options)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    run_command("cnnexp.gradcheck", lambda: _run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnnexp.gradcheck",
        description="Prove the backward of every op and algorithm.",
    )
    parser.add_argument("--op", help="only these, comma-separated")
    parser.add_argument("--algorithm", help="only these, comma-separated")
    parser.add_argument("--quick", action="store_true", help="fewer cases: under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    parser.add_argument("--seed", type=int, default=0, help="of the random cases (default: 0)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    return parser


def _run(options: argparse.Namespace) -> int:
    check_writable("--json", options.json)
    with quick_imports():
        import torch

        from cnnexp import ops
        from cnnexp.kernels.compilation import said_on
        from cnnexp.proofs import BATTERY, QUICK, run_battery
        from cnnexp.proofs.battery import negative_control

    chosen = names_among("--op", options.op, ops.op_names())
    known = sorted({name for op in chosen for name in ops.algorithm_names(op)})
    algorithms = names_among("--algorithm", options.algorithm, known)
    device = device_named(options.device)
    battery = QUICK if options.quick else BATTERY
    start = time.perf_counter()
    rows = []
    print(_HEAD)
    with said_on(sys.stderr):
        for row in run_battery(battery, chosen, algorithms, options.seed, device):
            print(_line(row), flush=True)
            for failure in row.report.failures[:5]:
                print(f"WRONG {row.op} {row.algorithm} {row.dtype}: {failure}", flush=True)
            rows.append(row)
    controls = [negative_control(op, options.seed, device) for op in chosen]
    missed = [row.op for row in controls if row.report]
    wrong = [row for row in rows if not row.report]
    seconds = time.perf_counter() - start
    for op in missed:
        print(f"WRONG {op}: gradients wrong by 1/1000 went unnoticed; this check proves nothing")
    if not missed:
        print(f"negative control: gradients wrong by 1/1000 were caught for all {len(chosen)} ops")
    cases = sum(row.report.cases for row in rows)
    verdict = "all proved" if not wrong and not missed else f"{len(wrong) + len(missed)} WRONG"
    print(f"{verdict}: {len(rows)} rows, {cases:,} cases, {seconds:.0f} s")
    if options.json is not None:
        conditions = {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "date": time.strftime("%Y-%m-%d"),
            "seed": options.seed,
            "seconds": round(seconds),
            "battery": battery._asdict(),
        }
        content = {"conditions": conditions, "rows": [_record(r) for r in (*rows, *controls)]}
        from cnnexp.runs.files import write_named

        write_named(options.json, json.dumps(content, indent=1) + "\n")
    return 1 if wrong or missed else 0


_HEAD = (
    f"{'op':20}{'algorithm':11}{'dtype':10}{'cases':>6}{'refused':>9}"
    f"{'vs differences':>16}{'vs torch':>10}{'error/torch':>13}  verdict"
)


def _line(row: Row) -> str:
    report = row.report

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return (
        f"{row.op:20}{row.algorithm:11}{row.dtype:10}{report.cases:6}{report.refused:9}"
        f"{number(report.differences, '.1e'):>16}{number(report.torch, '.1e'):>10}"
        f"{number(report.low_precision, '.2f'):>13}  {'ok' if report else 'WRONG'}"
    )


def _record(row: Row) -> dict[str, Any]:
    report = row.report
    return {
        "op": row.op,
        "algorithm": row.algorithm,
        "dtype": row.dtype,
        "cases": report.cases,
        "refused": report.refused,
        "error_against_differences": report.differences,
        "error_against_torch": report.torch,
        "error_relative_to_torch": report.low_precision,
        "failures": report.failures,
    }


if __name__ == "__main__":
    main()
