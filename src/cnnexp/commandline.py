"""The frame of every command: what it does first, which names it takes, and how it ends.

A command's ``main`` is one line, ``run_command(name, action)``. Exit codes: 0 done, 1 something failed, 2 the
command or the config cannot work, 130 stopped by Ctrl-C; all but the first with one line on stderr.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnnexp.kept_memory import keep_freed_memory
from cnnexp.suggestions import nearest

if TYPE_CHECKING:
    import torch

_GRACE = 5.0  # seconds that the other processes of a training wait for the first to speak


class Misuse(Exception):
    """What a user can mend by changing the command; the message names value, what is allowed, and how."""


def run_command(name: str, action: Callable[[], int]) -> None:
    """Exit with the code that ``action`` gives, which reads the arguments as well; see :func:`code_of`."""
    import_from_here()
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):  # names of files and classes may be in any encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(code_of(name, action))


def import_from_here() -> None:
    """Let modules of the current folder be imported, as ``python -m`` does and a console script does not.

    Without effect where Python was told to leave that folder out (``-P``, ``PYTHONSAFEPATH``).
    """
    if getattr(sys.flags, "safe_path", False):  # from Python 3.11 on
        return
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def code_of(name: str, action: Callable[[], int]) -> int:
    """The exit code that ``action`` gives, or that of the way in which it fails, once that is said.

    2 if it raises :class:`Misuse`; 130 if Ctrl-C stops it; 1 if it fails with an error whose message is
    cnnexp's own, or one of the system. Other errors are bugs and keep their traceback.
    """
    try:
        code = action()
        sys.stdout.flush()
    except Misuse as error:
        if _is_first():  # once, not by each of the processes that torchrun started
            print(f"{name}: {error}", file=sys.stderr)
        else:  # torchrun ends all processes once one has ended: the first is to have said why
            time.sleep(_GRACE)
        code = 2
    except KeyboardInterrupt:
        print(f"{name}: stopped by Ctrl-C", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # head has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        print(f"{name}: {_said_of_system(error)}", file=sys.stderr)
        code = 1
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        ours = type(error).__module__.startswith("cnnexp.")
        if not ours and "out of memory" not in reason:
            raise
        print(f"{name}: {reason}", file=sys.stderr)
        code = 1
    return code


def _is_first() -> bool:
    from cnnexp.runs.rank import process_rank

    here = process_rank()
    return here is None or here.rank == 0


def _said_of_system(error: OSError) -> str:
    """What the system says, of which file, and what to do about it."""
    from cnnexp.runs.files import NO_ROOM

    place = "" if error.filename is None else f"{error.filename}: "
    hint = "; make room, and give the command again" if error.errno in NO_ROOM else ""
    return f"{place}{error.strerror or error}{hint}"


def check_writable(flag: str, file: Path | None) -> None:
    """Make sure that the ``file`` that ``flag`` names, if it names one, can be written.

    Raises:
        Misuse: There is no folder for it, it is a folder itself, or nothing may be written there.
    """
    if file is None:
        return
    folder = file.resolve().parent
    if not folder.is_dir():
        raise Misuse(f"{flag}={file}: there is no folder {folder}")
    if file.is_dir():
        raise Misuse(f"{flag}={file}: is a folder; name a file in it")
    if not os.access(file if file.exists() else folder, os.W_OK):
        raise Misuse(f"{flag}={file}: there is no permission to write it; name another file")


def device_named(name: str) -> torch.device:
    """The device that ``--device`` names: ``cpu`` or ``cuda``.

    Raises:
        Misuse: It names another one, or this machine has no such device.
    """
    import torch

    if name not in ("cpu", "cuda"):
        raise Misuse(f"--device={name}: must be cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise Misuse("--device=cuda: this machine has no usable GPU")
    return torch.device(name)


def names_among(flag: str, given: str | None, known: Sequence[str]) -> list[str]:
    """The names in ``given``, comma-separated; all that are known if it is None.

    Args:
        flag: Through which they came, for messages.
        given: Its value.
        known: Which names there are.

    Raises:
        Misuse: There is no such name.
    """
    if given is None:
        return list(known)
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in known:
            close = nearest(name, known)
            hint = f"; did you mean '{close}'?" if close else ""
            raise Misuse(f"{flag}={name}: unknown; known: {', '.join(known)}{hint}")
    return names


def name_among(flag: str, given: str, known: Sequence[str]) -> str:
    """The one name in ``given``, as :func:`names_among`.

    Raises:
        Misuse: There is no such name, or there are several.
    """
    names = names_among(flag, given, known)
    if len(names) > 1:
        raise Misuse(f"{flag}={given}: must be one name; give the command for each")
    return names[0]
