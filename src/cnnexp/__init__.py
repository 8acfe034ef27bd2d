"""cnnexp: understand and optimise the back-propagation of convolutional networks.

Five names stand for what most programs need:

- ``replace_layers(network, "auto")`` gives any network hand-derived gradients, in place;
- ``check(function, cases)`` proves a differentiable function or Module of your own;
- ``fit("lenet5", "mnist", epochs=3)`` trains, and returns the run;
- ``load_run("latest")`` loads the network that a run has trained, with its metrics;
- ``__version__``.

They are imported when they are first asked for, so that ``import cnnexp`` imports no torch. All else
is in the packages: ``cnnexp.ops``, ``cnnexp.nn``, ``cnnexp.tuning``, ``cnnexp.optim`` …
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cnnexp.version import __version__

if TYPE_CHECKING:
    from cnnexp.inference import load_run
    from cnnexp.nn import replace_layers
    from cnnexp.notebook import fit
    from cnnexp.proofs import check

__all__ = ["__version__", "check", "fit", "load_run", "replace_layers"]

_PACKAGES = {
    "check": "cnnexp.proofs",
    "fit": "cnnexp.notebook",
    "load_run": "cnnexp.inference",
    "replace_layers": "cnnexp.nn",
}


def __getattr__(name: str) -> Any:
    """The public name ``name``, imported from its package at the first use (PEP 562)."""
    if name not in _PACKAGES:
        raise AttributeError(f"module 'cnnexp' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_PACKAGES[name]), name)
    return value


def __dir__() -> list[str]:
    """All names, those that are not imported yet included."""
    return sorted({*globals(), *_PACKAGES})
