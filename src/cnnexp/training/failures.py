"""One line about what ended a training: what happened, and what to do about it."""

from __future__ import annotations

import errno
import os
import re

import torch

from cnnexp.runs.files import NO_ROOM

_WORKER_DIED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed|exited)")
_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.")
_TRIED = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)


def failure_reason(error: BaseException) -> str:
    """What status.json and the terminal say about ``error``."""
    text = str(error)
    if _is_out_of_memory(error):
        size = _TRIED.search(text)
        asked = f" (asked for {size[1]})" if size else ""
        return (
            f"out of memory{asked}: lower data.batch_size (trainer.accumulate_grad_batches keeps the step "
            f"by as many images), take a smaller model, or accelerator.precision=bf16-mixed"
        )
    if died := _worker_that_died(error):
        return (
            f"a data worker (process {died}) was killed or ran out of memory: lower data.num_workers "
            f"or data.batch_size; run=<folder> resumes from the last checkpoint"
        )
    if _IN_WORKER.match(text):  # the traceback of the worker is in train.log
        text = text.strip().splitlines()[-1]
        return " ".join(text.split())
    if isinstance(error, OSError):
        return _of_the_system(error)
    if isinstance(error, RuntimeError) and type(error).__module__.startswith("cnnexp."):
        return _one_line(text)  # written for the user
    return _one_line(f"{type(error).__name__}: {text}")


def _worker_that_died(error: BaseException | None) -> str:
    """The number of the data worker that died; "" if none did. Its error may be behind ``error``."""
    seen = 0
    while error is not None and seen < 20:
        if died := _WORKER_DIED.search(str(error)):
            return died[1]
        error, seen = error.__cause__ or error.__context__, seen + 1
    return ""


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _of_the_system(error: OSError) -> str:
    file = "the folder" if error.filename is None else os.fsdecode(error.filename)
    name = "" if error.filename is None else f" {file}"
    if error.errno in NO_ROOM:
        return (
            f"no room left to write{name} ({error.strerror}): free some; run=<folder> resumes from the "
            f"last checkpoint"
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"cannot write{name} ({error.strerror}): make the folder writable; run=<folder> resumes it"
    if error.errno == errno.ENOENT:
        return f"{file} is gone ({error.strerror}): was it deleted under way?"
    return _one_line(f"{type(error).__name__}: {error}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
