"""Calls that share parameters, mostly one alone: what a norm, and a gradient by sample, is of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnexp.nn.per_sample.calls import Call, PerSample, squared_norms_of
from cnnexp.ops.precision import whole_float32

__all__ = ["Unit", "sample_norms", "units_of"]


@torch.no_grad()
def sample_norms(calls: Sequence[Call], scale: float = 1.0) -> Tensor:
    """‖g_n‖² by layer: (L, N) float64, for gradients that are ``scale`` times those in ``calls``."""
    with whole_float32():
        return torch.stack([unit.squared_norms() for unit in units_of(calls)]) * scale**2


@dataclass(frozen=True)
class Unit:
    """Calls that share parameters, mostly one alone: what a norm is of."""

    calls: tuple[Call, ...]

    @property
    def name(self) -> str:
        """The name of its layer; of layers that share a weight, their sorted names with + between."""
        return "+".join(sorted({call.name for call in self.calls}))

    @property
    def samples(self) -> int:
        """N, how many samples the calls were of."""
        return self.calls[0].samples

    def per_sample(self) -> Mapping[nn.Parameter, Tensor]:
        r"""The gradient of each sample by parameter: (N, \*shape)."""
        parameters = {str(id(p)): p for call in self.calls for p in call.parameters.values()}
        return {parameters[key]: g for key, g in self._added(0, self.samples).items()}

    def squared_norms(self) -> Tensor:
        """‖g_n‖² over the parameters of all calls: (N,) float64."""
        if len(self.calls) == 1:
            return self.calls[0].squared_norms()
        first = self.calls[0]
        return squared_norms_of(self._added, first.samples, sum(call.size for call in self.calls))

    def weighted(self, factors: Tensor) -> Mapping[nn.Parameter, Tensor]:
        """Σ_n factors[n]·g_n by parameter, from factors (N,)."""
        sums: dict[nn.Parameter, Tensor] = {}
        for call in self.calls:
            for name, g in call.weighted(factors).items():
                parameter = call.parameters[name]
                sums[parameter] = sums[parameter] + g if parameter in sums else g
        return sums

    def _added(self, first: int, end: int) -> PerSample:
        """The gradient of each sample, summed over the calls: norms of sums are no sums of norms."""
        added: PerSample = {}
        for call in self.calls:
            for name, g in call.per_sample(first, end).items():
                key = str(id(call.parameters[name]))
                added[key] = added[key] + g if key in added else g
        return added


def units_of(calls: Iterable[Call]) -> list[Unit]:
    """The calls that the backward pass came to, together where they share a parameter."""
    groups: dict[int, list[Call]] = {}
    of_parameter: dict[nn.Parameter, int] = {}
    for number, call in enumerate(call for call in calls if call.grad_output is not None):
        groups[number] = [call]
        for parameter in call.parameters.values():
            other = of_parameter.get(parameter, number)
            if other != number:
                groups[number] += groups.pop(other)
                of_parameter = {p: number if n == other else n for p, n in of_parameter.items()}
            of_parameter[parameter] = number
    return [Unit(tuple(group)) for group in groups.values()]
