"""The packages of the extra ``privacy``, imported when they are first needed."""

from __future__ import annotations

import importlib
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
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise PrivacyExtraError(
            f'private training needs {missing}: pip install "cnnexp[privacy]"', name=missing
        ) from error
