"""Run a student's work on cases, in a process of its own: ``python -m cnnexp.grading.worker <folder>``.

The folder holds ``job.json`` (what to run, with which limits) and ``cases.npz``; the answers are written
beside them, one file a case, so that what was done before an end by force is not lost. Neither side unpickles
anything. The process is no prison for malicious code: it keeps mistakes from harm, not attackers.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.util
import json
import random
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from cnnexp.grading.answers import Answer
from cnnexp.grading.cases import Case, cases_of
from cnnexp.grading.submission import NothingToGradeError, Submission, find

_MODULE = "student_work"


def main(folder: Path) -> None:
    """Do the job in ``folder``, and end where it takes too long."""
    job = _job(folder)
    if b"torch" in Path(job["file"]).read_bytes():
        import torch  # it counts neither as the student's time nor as memory

        torch.set_num_threads(1)
    with (folder / "hang.txt").open("w") as hang:
        faulthandler.dump_traceback_later(job["seconds"], exit=True, file=hang)
        do_job(folder)
        faulthandler.cancel_dump_traceback_later()


def _job(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "job.json").read_text(encoding="utf-8"))


def do_job(folder: Path) -> None:
    """Do the job in ``folder`` within its limits of memory."""
    job = _job(folder)
    file, name = Path(job["file"]), job["file"]
    limit(job["memory"], job["seconds"])
    uses_torch = b"torch" in file.read_bytes()
    outcome: dict[str, Any] = {}
    try:
        submission = find(job["op"], own_names(load(file)), uses_torch)
        outcome = run_all(submission, read_cases(folder, job["op"]), folder, name)
    except NothingToGradeError as error:
        outcome = {"misuse": str(error)}
    except BaseException as error:  # SystemExit as well: the student's code may end anywhere
        outcome = {"error": failure(error, name, "is loaded")}
    (folder / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")


def own_names(module: ModuleType) -> dict[str, Any]:
    """The names of a module without the functions and classes of installed libraries."""
    assert module.__file__ is not None
    here = Path(module.__file__).resolve().parent

    def own(value: Any) -> bool:
        home = getattr(value, "__module__", None)
        if home in (_MODULE, None):
            return True
        file = getattr(sys.modules.get(home), "__file__", None)
        return file is not None and Path(file).resolve().is_relative_to(here)

    return {name: value for name, value in vars(module).items() if own(value)}


def limit(memory: int, seconds: float) -> None:
    """Let this process take ``memory`` more bytes and about ``seconds`` more of the processor."""
    try:
        import resource
    except ImportError:  # Windows has no such limits; the clock of the other process remains
        return
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        now = pages * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + memory, resource.RLIM_INFINITY))
    except OSError:
        pass
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**26, 2**26))  # of what is printed, too


def load(file: Path) -> ModuleType:
    """The student's file as a module; its folder is searched for what it imports."""
    sys.path.insert(0, str(file.resolve().parent))
    sys.dont_write_bytecode = True
    spec = importlib.util.spec_from_loader(_MODULE, loader=None, origin=str(file))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(file)
    sys.modules[_MODULE] = module
    exec(compile(file.read_bytes(), str(file), "exec"), vars(module))
    return module


def read_cases(folder: Path, op: str) -> list[Case]:
    """The cases of the job: those of ``op``, with what is sent back through each."""
    cases = cases_of(op)
    with np.load(folder / "cases.npz", allow_pickle=False) as sent:
        numbers = [int(number) for number in sent["numbers"]]
        chosen = [cases[number] for number in numbers]
        for place, case in enumerate(chosen):
            case.grad_output = sent[f"g{place}"]
    return chosen


def run_all(submission: Submission, cases: list[Case], folder: Path, file: str) -> dict[str, Any]:
    """Run every case that the submission takes, write its answer; return what is to be said on the whole."""
    said = settle(submission, cases[0])
    takes = submission.takes()
    given = submission.takes_grad_output()
    from cnnexp.grading.cases import fits

    errors: dict[int, Any] = {}
    for number, case in enumerate(cases):
        if not fits(case, takes):
            continue
        if not given:
            case.grad_output = np.ones_like(case.grad_output)
        (folder / "now.txt").write_text(str(number))
        try:
            write_answer(folder / f"answer{number}.npz", one(submission, case))
        except BaseException as error:
            errors[number] = failure(error, file, "runs")
    outcome = {
        "errors": errors,
        "takes": sorted(takes),
        "grad_output": given,
        "kind": submission.kind,
        "tensors": submission.tensors,
        "said": said,
        "overflows": overflows(submission, cases[0]),
        "repeats": repeats(submission, cases[0]) if 0 not in errors else "",
    }
    (folder / "outcome.json").write_text(
        json.dumps(outcome), encoding="utf-8"
    )  # should timing fail
    outcome["cost"] = cost(submission, given) if not errors else {}
    return outcome


def settle(submission: Submission, case: Case) -> list[str]:
    """Find out how the submission wants its arguments; return what was found beside the documented way."""
    ways: list[tuple[dict[str, Any], str]] = [
        ({}, ""),
        ({"pairs": True}, "its settings are pairs (rows, columns)"),
    ]
    if submission.contract.op == "linear":
        ways.append(({"transposed": True}, "its w is (C_in, C_out)"))
    if submission.contract.op == "batch_norm":
        ways.append(({"flat": True}, "its x is (N, C): images are given as rows of channels"))
    if submission.tensors == "torch" and submission.kind in ("functions", "class"):
        ways += [({"tensors": "numpy", **way}, said) for way, said in ways]
    for way, said in ways:
        before = {name: getattr(submission, name) for name in way}
        for name, value in way.items():
            setattr(submission, name, value)
        try:
            one(submission, case)
        except BaseException:
            for name, value in before.items():
                setattr(submission, name, value)
        else:
            return [said] if said else []
    return []


def one(submission: Submission, case: Case, seed: int = 0) -> Answer:
    """The answer to one case, with fixed seeds, so that what differs between two calls is kept state."""
    random.seed(seed)
    np.random.seed(seed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
    with np.errstate(all="ignore"):
        return submission.run(case)


def overflows(submission: Submission, case: Case) -> bool:
    """Whether a loss is not finite for large logits, which must not be taken to exp as they are."""
    if case.op != "cross_entropy":
        return False
    large = replace(case, tensors=case.tensors | {"logits": 1000 * np.sign(case.tensors["logits"])})
    try:
        answer = one(submission, large)
    except BaseException:
        return True
    found = (answer.y, answer.gradients.get("logits"))
    return not all(value is not None and np.isfinite(value).all() for value in found)


def repeats(submission: Submission, case: Case) -> str:
    """Empty if the same call gives the same; else "state" or "random"."""
    try:
        first, second, third = (one(submission, case, seed) for seed in (0, 0, 1))
    except BaseException:
        return "state"
    if not _same(first, second):
        return "state"
    return "" if _same(second, third) else "random"


def _same(a: Answer, b: Answer) -> bool:
    pairs = [(a.y, b.y), *((a.gradients[n], b.gradients[n]) for n in a.gradients)]
    return all(
        (x is None) == (y is None)
        and (x is None or y is None or np.array_equal(x, y, equal_nan=True))
        for x, y in pairs
    )


def cost(submission: Submission, given: bool) -> dict[str, float]:
    """Milliseconds and bytes that forward and backward of a middling call take."""
    from cnnexp.grading.cases import middling

    case = middling(submission.contract.op, submission.takes())
    if not given:
        case.grad_output = np.ones_like(case.grad_output)
    times = []
    try:
        import tracemalloc

        begun = time.perf_counter()
        while len(times) < 5 and time.perf_counter() - begun < 1.0:
            start = time.perf_counter()
            one(submission, case)
            times.append(1000 * (time.perf_counter() - start))
        found = {"ms": sorted(times)[len(times) // 2], "calls": float(len(times))}
        if submission.tensors == "numpy" and found["ms"] < 500:  # torch's memory is not Python's
            tracemalloc.start()
            one(submission, case)
            found["bytes"] = float(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    except BaseException:  # it was right on all cases; how fast it is remains unknown
        return {}
    return found


def write_answer(file: Path, answer: Answer) -> None:
    """Write arrays and notes to ``file``; gradients that are None are left out."""
    arrays = {name: value for name, value in answer.gradients.items() if value is not None}
    if answer.y is not None:
        arrays["y"] = answer.y
    np.savez(file, notes=np.array(answer.notes, dtype=str), **arrays)  # pyright: ignore[reportArgumentType]


def failure(error: BaseException, file: str, doing: str) -> dict[str, Any]:
    """An error as the student should see it: its kind and message, and the student's own line."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    last = frames[-1] if frames else None
    line, text = (last.lineno, last.line) if last else (None, "")
    if isinstance(error, SyntaxError):
        line, text = error.lineno, (error.text or "").strip()
    return {
        "kind": type(error).__name__,
        "message": str(error)[:500],
        "line": line,
        "text": text or "",
        "function": last.name if last else "",
        "doing": doing,
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let what is printed go nowhere."""
    import io

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


if __name__ == "__main__":
    main(Path(sys.argv[1]))
