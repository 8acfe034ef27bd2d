"""``python -m cnnexp.gradcheck --quick`` on the device, an op a process, several at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial

from cnnexp import ops
from gpu_parts.rows import Rows, whole_device

__all__ = ["run"]

_FIRST = ("conv_relu_pool", "conv2d", "max_pool2d")  # they take longest
_ON_CPU = ("relu",)


def run(rows: Rows) -> None:
    """Prove every op; on a CPU, where the test suite does that, one for the sake of this script."""
    names = [*_FIRST, *(n for n in ops.op_names() if n not in _FIRST)] if rows.on_gpu else _ON_CPU
    at_once = max(1, min(len(names), (os.cpu_count() or 1) - 1))
    with whole_device(rows.device) as peak, ThreadPoolExecutor(at_once) as pool:
        start = time.perf_counter()
        proofs = {pool.submit(partial(_prove, rows, name)): name for name in names}
        codes = {proofs[each]: each.result() for each in as_completed(proofs)}
        failed = [name for name, code in codes.items() if code]
        rows.add(
            "all ops", "gradcheck --quick", "failed" if failed else "ok",
            seconds=time.perf_counter() - start, peak_mb=peak(),
            note=f"not proved: {', '.join(failed)}" if failed else "",
        )  # fmt: skip


def _prove(rows: Rows, op: str) -> int:
    """Add a row for each line of the table that the command prints; its exit code."""
    command = [sys.executable, "-m", "cnnexp.gradcheck", "--quick", "--op", op]
    command += ["--device", rows.device.type]
    fixed = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        env={**os.environ, **fixed},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            print(f"{op}: {line}", end="", flush=True)
            words = line.split()
            if words and words[-1] in ("ok", "WRONG") and words[0] == op:
                rows.add(op, " ".join(words[1:3]), "ok" if words[-1] == "ok" else "failed",
                         value=words[-2], unit="error / torch's", note=" ".join(words[3:]))  # fmt: skip
            elif line.startswith("WRONG"):
                rows.add(op, "finding", "failed", note=line.strip())
            last = line.strip() or last
    code = process.wait()
    state = "ok" if code == 0 else "failed"
    rows.add(op, "command", state, seconds=time.perf_counter() - start, note=last)
    return code
