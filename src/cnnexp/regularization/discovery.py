"""Find the regularisers of a package: a method declares itself by its file."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Mapping

from cnnexp.regularization.regularizer import Regularizer


def find_regularizers(folders: Iterable[str], package: str) -> Mapping[str, type[Regularizer]]:
    """The regularisers that the modules of a package define, by their names in the config.

    Args:
        folders: Where its modules are, the package's ``__path__``.
        package: Its dotted name.

    Raises:
        ValueError: Two have the same name.
    """
    found: dict[str, type[Regularizer]] = {}
    for info in pkgutil.iter_modules(folders):
        module = importlib.import_module(f"{package}.{info.name}")
        for kind in vars(module).values():
            ours = inspect.isclass(kind) and kind.__module__ == module.__name__
            if not ours or not issubclass(kind, Regularizer) or not kind.name:
                continue
            if kind.name in found:
                raise ValueError(
                    f"regularization.{kind.name}: {found[kind.name].__module__} and {module.__name__} both "
                    f"have this name; rename one of them"
                )
            found[kind.name] = kind
    return found
