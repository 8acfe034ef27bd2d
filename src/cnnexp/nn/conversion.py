"""A report on which layers of a network use our backward, which keep torch's own, and why."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from cnnexp.nn.done import is_done
from cnnexp.nn.layer import Layer, layer_algorithms
from cnnexp.nn.twins import is_replaced, plain_class, twin_of

log = logging.getLogger(__name__)

NO_TWIN = "cnnexp.nn has no such layer"
_NAMED = 5  # one line names at most this many layers
REPLACED = "its forward was replaced on the object"
_HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_PASSIVE = (*_HOLDERS, nn.Identity, nn.Flatten, nn.Unflatten)
_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


@dataclass(frozen=True)
class Conversion:
    """The layers of a network, by their names in ``named_modules``.

    Attributes:
        algorithms: The algorithm of each layer over ``cnnexp.ops``.
        kept: For each layer that keeps torch's own backward, the reason.
        kinds: The class of each layer in ``kept``.
        unexpected: Those of ``kept`` that one might expect to be converted: layers of classes that
            derive from one with a twin in ``cnnexp.nn``, or whose ``forward`` was replaced.
    """

    algorithms: dict[str, str]
    kept: dict[str, str]
    kinds: dict[str, str]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        """Return one line on our layers, and one for each reason to keep torch's."""
        ours = Counter(self.algorithms.values()).most_common()
        first = ", ".join(f"{name} ×{count}" for name, count in ours) or "none"
        return "\n".join([f"layers of cnnexp.nn: {first}", *self.lines()])

    def lines(self, unexpected: bool | None = None) -> list[str]:
        """One line for each reason: all, only ``unexpected`` layers' (True), or only the others' (False)."""
        names = [n for n in self.kept if unexpected in (None, n in self.unexpected)]
        lines = []
        for reason in dict.fromkeys(self.kept[name] for name in names):
            those = [name for name in names if self.kept[name] == reason]
            if reason == NO_TWIN:  # there may be many of these
                counts = Counter(self.kinds[name] for name in those)
                where = ", ".join(f"{kind} ×{count}" for kind, count in counts.most_common())
            else:
                where = listed(
                    [f"{name or 'the module itself'} ({self.kinds[name]})" for name in those]
                )
            lines.append(f"torch's own backward stays in {where}: {reason}")
        return lines

    def log(self) -> None:
        """Log what keeps torch's backward: unexpected layers as a warning, the others as information."""
        for line in self.lines(unexpected=True):
            log.warning(line)
        for line in self.lines(unexpected=False):
            log.info(line)


def conversion(module: nn.Module) -> Conversion:
    """The result of ``replace_layers`` on ``module``; it changes nothing and may be called at any time.

    Functions called in a module's ``forward``, such as ``torch.relu``, are not layers and are not
    listed: they keep torch's backward, unless a layer before them takes them into its block. Nor is a
    layer whose class says ``differentiable = False``, through which no gradient passes.

    Examples:
        >>> from torch import nn
        >>> from cnnexp.nn import conversion, replace_layers
        >>> network = replace_layers(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)))
        >>> found = conversion(network)
        >>> found.algorithms, found.kept
        ({'0': 'direct'}, {'1': 'cnnexp.nn has no such layer'})
    """
    kept, kinds, unexpected = {}, {}, []
    for name, layer in _computing(module):
        reason, expected = _reason(layer)
        kept[name], kinds[name] = reason, plain_class(layer).__name__
        if not expected:
            unexpected.append(name)
    return Conversion(layer_algorithms(module), kept, kinds, tuple(unexpected))


def _computing(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers, with their names, that compute something themselves and are not ours."""
    weights = {
        inner
        for outer in module.modules()
        if isinstance(outer, ParametrizationList)
        for inner in outer.modules()
    }
    for name, layer in module.named_modules():
        if layer in weights or isinstance(layer, (Layer, *_PASSIVE)) or is_done(layer):
            continue
        if not getattr(layer, "differentiable", True):
            continue
        parts = [part for part, _ in layer.named_children() if part != "parametrizations"]
        if not parts or base_of(layer) is not None or isinstance(layer, nn.MultiheadAttention):
            yield name, layer


def base_of(layer: nn.Module) -> type[nn.Module] | None:
    """The class with a twin that the class of ``layer`` is or derives from; None without one."""
    return next((base for base in type(layer).__mro__ if twin_of(base) is not None), None)


def _reason(layer: nn.Module) -> tuple[str, bool]:
    """Why ``layer`` keeps torch's backward, and whether one would expect that."""
    kind, base = plain_class(layer), base_of(layer)
    if kind.__module__.startswith(_QUANTISED):
        return "a quantised layer has no gradient", True
    if isinstance(layer, torch.jit.ScriptModule):
        return "torch.jit has compiled it", False
    if base is None:
        return NO_TWIN, True
    if twin_of(kind) is not None:
        return (REPLACED if is_replaced(layer) else "replace_layers was not called"), False
    own = "has a forward of its own" if kind.forward is not base.forward else "may change it"
    return f"a class derived from {base.__name__} {own}", kind.__module__.startswith("torch.")


def listed(names: Sequence[str]) -> str:
    """The first of ``names`` on one line, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
