"""Quick imports: what others import and few use is executed once somebody asks for what is in it.

Lightning imports torchmetrics, which imports scipy, matplotlib and torchvision for metrics of sound, text and
pictures, and torch's compiler, for a class that it compares with; torch's optimisers import the compiler to
say, at each step, that this is not to be compiled. Half of the time from the shell to the first step went
there, and a fifth of the rest to the garbage collector, which goes through all that imports have made, again
and again. Tried with torch 2.14.1, torchmetrics 1.9.0 and lightning 2.6.6.
"""

from __future__ import annotations

import gc
import importlib
import importlib.abc
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["postpone_unused", "quick_imports"]

_LOADING = threading.RLock()


class _Postponed(ModuleType):
    """A module that was found but not executed; asking for a name that it has not executes it.

    It stays the same object then, and is as if it had been executed at once.

    Args:
        spec: Where it was found.
        ready: Names that it has until then, with their values.
        elsewhere: Names that modules below it define, and which: asking for these executes only those.
        loaded: Called when it has been executed.
        whole: Execute it before a module below it is imported, as Python does.
    """

    def __init__(
        self,
        spec: ModuleSpec,
        ready: Mapping[str, Any],
        elsewhere: Mapping[str, str],
        loaded: Callable[[], None],
        whole: bool,
    ) -> None:
        super().__init__(spec.name)
        self.__spec__, self.__loader__, self.__package__ = spec, spec.loader, spec.parent
        self.__file__ = spec.origin
        if spec.submodule_search_locations is not None:
            self.__path__ = spec.submodule_search_locations
        self.__dict__.update(ready)
        self.__dict__["_postponed"] = (ready, elsewhere, loaded, whole)

    def __getattr__(self, name: str) -> Any:
        _, elsewhere, *_ = self.__dict__["_postponed"]
        if name in elsewhere:
            return getattr(importlib.import_module(elsewhere[name]), name)
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        _execute(self)
        return getattr(self, name)


def _execute(module: ModuleType) -> None:
    with _LOADING:
        if not isinstance(module, _Postponed):  # another thread has done it
            return
        ready, _, loaded, _ = module.__dict__.pop("_postponed")
        for name in ready:
            del module.__dict__[name]
        module.__class__ = ModuleType  # pyright: ignore[reportAttributeAccessIssue]
        assert module.__spec__ is not None
        assert module.__spec__.loader is not None
        try:
            module.__spec__.loader.exec_module(module)
        except BaseException:  # as of any import that fails
            sys.modules.pop(module.__name__, None)
            raise
        loaded()


class _Below(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Executes a postponed package before a module below it is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the package has imported itself; None where others are to look."""
        package = sys.modules.get(fullname.rpartition(".")[0])
        if not isinstance(package, _Postponed) or not package.__dict__["_postponed"][-1]:
            return None
        _execute(package)
        there = sys.modules.get(fullname)
        return None if there is None else importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module that is there already."""
        module = sys.modules[spec.name]
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it is."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def _postpone(
    name: str,
    ready: Mapping[str, Any],
    *,
    folder: str | None = None,
    elsewhere: Mapping[str, str] | None = None,
    loaded: Callable[[], None] = lambda: None,
    whole: bool = True,
) -> ModuleType | None:
    """Let ``name`` be a postponed module, unless it is imported already or not there.

    Args:
        name: Of a module.
        ready, elsewhere, loaded, whole: As of :class:`_Postponed`.
        folder: Where it lies, if its parent must not be imported to find out.
    """
    if name in sys.modules:
        return None
    spec = PathFinder.find_spec(name, [folder]) if folder else importlib.util.find_spec(name)
    if spec is None:
        return None
    module = _Postponed(spec, ready, elsewhere or {}, loaded, whole)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent in sys.modules:  # as Python does
        setattr(sys.modules[parent], last, module)
    return module


def _later(module: str, name: str) -> Any:
    """A function that calls the one of this ``name``, by when its ``module`` is imported."""

    def call(*arguments: Any, **options: Any) -> Any:
        there = importlib.import_module(module)
        _execute(there)
        return getattr(there, name)(*arguments, **options)

    return call


class _IfLoaded(type):
    """Of a class that stands for ``torch._dynamo.OptimizedModule``: nothing is one before that is there."""

    def __instancecheck__(cls, instance: object) -> bool:
        dynamo = sys.modules["torch._dynamo"]
        return not isinstance(dynamo, _Postponed) and isinstance(instance, dynamo.OptimizedModule)


def _postpone_compiler() -> None:
    left_alone: list[Any] = []

    def disable(function: Any, *_arguments: Any, **_options: Any) -> Any:
        left_alone.append(function)  # nothing is compiled as long as the compiler is not there
        return function

    def loaded() -> None:
        for function in left_alone:  # torch asks again, and is given what the compiler knows
            vars(function).pop("__dynamo_disable", None)

    ready = {
        "OptimizedModule": _IfLoaded("OptimizedModule", (), {}),
        "disable": disable,
        "graph_break": lambda *_arguments, **_options: None,
    }
    _postpone("torch._dynamo", ready, loaded=loaded)


def _postpone_metrics() -> None:
    ready = {"_logger": logging.getLogger("torchmetrics")}
    elsewhere = {
        "Metric": "torchmetrics.metric",
        "MetricCollection": "torchmetrics.collections",
        "__version__": "torchmetrics.__about__",
    }
    module = _postpone("torchmetrics", ready, elsewhere=elsewhere, whole=False)
    if module is None:
        return
    plots = "torchmetrics.utilities.plot"
    ready = {"_AX_TYPE": Any, "_PLOT_OUT_TYPE": Any}
    ready["plot_single_or_multi_val"] = _later(plots, "plot_single_or_multi_val")
    plot = _postpone(plots, ready, folder=f"{module.__path__[0]}/utilities")
    try:
        # which the base of all metrics needs first
        utilities = importlib.import_module("torchmetrics.utilities")
        utilities.__dict__["plot"] = plot
    except ImportError:  # a version that is built otherwise is imported as a whole
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchmetrics"]:
            del sys.modules[name]


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import torch, Lightning and what is built on them inside this context, which makes it quicker.

    What a usual training does not need is postponed (:func:`postpone_unused`), and no garbage is collected
    meanwhile. In a process that had no torch, a command's, the collector leaves what there is then alone for
    good: it is what was imported. In a notebook that might be networks that the user lets go.
    """
    collected, torch_is_new = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        postpone_unused()
        yield
        if collected and torch_is_new:
            gc.freeze()
    finally:
        if collected:
            gc.enable()


def postpone_unused() -> None:
    """Postpone what a usual training does not need, for a process that has yet to import Lightning.

    These are torch's compiler and its counter of operations (which imports Triton), all of torchmetrics but
    the base of its metrics, and scipy's linear algebra, which numba looks for. What is imported already is
    left as it is, as in a process forked from one that has imported all. ``TORCHDYNAMO_DISABLE`` was looked
    at: the compiler is imported all the same; Lightning and torchmetrics have no switch.
    """
    if not any(isinstance(finder, _Below) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Below())
    _postpone_compiler()
    counter = "torch.utils.flop_counter"
    _postpone(counter, {"FlopCounterMode": _later(counter, "FlopCounterMode")})
    _postpone_metrics()
    _postpone("scipy.linalg", {}, whole=False)
