"""How a command ends: one line and an exit code, whatever goes wrong."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

from cnnexp.commandline import import_from_here
from cnnexp.config.errors import ConfigError
from cnnexp.runs import place

__all__ = ["code_of", "run_command"]


def run_command(name: str, action: Callable[[], int]) -> None:
    """Exit with the code that ``action`` gives; see :func:`code_of`."""
    import_from_here()
    for stream in (sys.stdout, sys.stderr):  # names of files and classes may be in any encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(code_of(name, action))


def code_of(name: str, action: Callable[[], int]) -> int:
    """The exit code that ``action`` gives, or that of the way in which it fails, once that is said.

    2 if it raises a :class:`ConfigError`, which is misuse; 130 if Ctrl-C stops it; 1 if it fails with
    an error whose message is cnnexp's own, or one of the system. Other errors are bugs and keep their
    traceback.
    """
    try:
        code = action()
        sys.stdout.flush()
    except ConfigError as error:
        here = place()
        if (
            here is None or here.rank == 0
        ):  # once, not by each of the processes that torchrun started
            print(f"{name}: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print(f"{name}: stopped by Ctrl-C", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # head has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        print(f"{name}: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        code = 1
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        if not _is_ours(error) and "out of memory" not in reason:
            raise
        print(f"{name}: {reason}", file=sys.stderr)
        code = 1
    return code


def _is_ours(error: RuntimeError) -> bool:
    return type(error).__module__.startswith("cnnexp.")
