"""The packages of the extra ``privacy``, imported when they are first needed."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

__all__ = ["PrivacyExtraError", "privacy_package"]


class PrivacyExtraError(ImportError):
    """A package of the extra ``privacy`` is not installed."""


def privacy_package(name: str) -> ModuleType:
    """The module ``name`` of a package that the extra ``privacy`` installs.

    Raises:
        PrivacyExtraError: The package, or one that it needs, is missing.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise PrivacyExtraError(
            f'private training needs {missing}: pip install "cnnexp[privacy]"', name=missing
        ) from error
    _tame_absl()
    return module


def _tame_absl() -> None:
    """Let absl, which dp-accounting logs with, warn of nothing and close no stream of anybody else.

    Its handler closes the stream that was ``sys.stderr`` when it was imported, once logging is configured
    anew (as Hydra does) while ``sys.stderr`` is another one (as in a notebook, or under pytest).
    """
    absl = sys.modules.get("absl.logging")
    if absl is not None:
        absl.set_verbosity(absl.ERROR)
        absl.get_absl_handler().python_handler.setStream(sys.__stderr__)
