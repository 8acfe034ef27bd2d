"""The loss around the weights, as a training goes along: noise, sharpness, cosine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cnnexp.diagnostics import (
    DiagnosticsSettings,
    gradient_moments,
    noise_scale,
    sharpness,
    undisturbed,
)
from cnnexp.training.classifier import Classifier
from cnnexp.training.ranks import Ranks

log = logging.getLogger(__name__)

_DECAY = 0.8  # of the averages that the noise scale is the ratio of


class Landscape:
    """What ``diagnostics=full`` measures beside the layers, for one training.

    Args:
        settings: How much and how often.
        ranks: The processes of the training.
    """

    def __init__(self, settings: DiagnosticsSettings, ranks: Ranks) -> None:
        self._settings, self._ranks = settings, ranks
        self._failed = False
        self._before: Tensor | None = None  # the gradient of the step before a measured one
        self._averages: list[float] | None = None  # of tr Σ and |G|²

    def due(self, step: int) -> bool:
        """Whether it is looked at in ``step``, counted from 0."""
        every = self._settings.every * self._settings.landscape_every
        return self._settings.name == "full" and step % every == 0

    def measure(
        self, module: Classifier, batch: tuple[Tensor, Tensor], batch_idx: int, step: int
    ) -> dict[str, Tensor]:
        """Sharpness and the moments of the gradient, of a batch at the present weights.

        A network of which they cannot be computed has none, and the log says why.
        """
        if self._failed:
            return {}
        try:
            return self._measure(module, batch, batch_idx, step)
        except (RuntimeError, ValueError) as error:
            if self._ranks.count > 1:  # the others wait for what this one would have sent
                raise
            self._failed = True
            reason = str(error).splitlines()[0]
            log.warning("diagnostics: no noise and sharpness of this network: %s", reason)
            return {}

    def _measure(
        self, module: Classifier, batch: tuple[Tensor, Tensor], batch_idx: int, step: int
    ) -> dict[str, Tensor]:
        images, targets = module.vary(*batch, batch_idx)
        share = module.share(batch_idx, batch[1])
        weight = share.weight(self._ranks.count)
        parameters = [p for p in module.network.parameters() if p.requires_grad]
        with undisturbed(module.network):
            moments = gradient_moments(
                module.objective,
                parameters,
                images,
                targets,
                self._settings.noise_parts,
                least=2,
                mean=self._mean,
                ranks=self._ranks.count,
                batch=share.of,
            )
            curvature = sharpness(
                lambda: module.objective(images, targets) * weight,
                parameters,
                mean=self._mean,
                iterations=self._settings.sharpness_iterations,
                seed=step,
            )
        found = {"sharpness": torch.tensor(curvature, device=module.device)}
        if moments is not None:
            found |= dict(zip(("variance", "square"), moments, strict=True))
        return found

    def _mean(self, value: Tensor) -> Tensor:
        return self._ranks.total(value) / self._ranks.count

    def see_gradient(self, module: Classifier, step: int) -> dict[str, Tensor]:
        """The cosine with the gradient of the step before, if ``step`` is due; else keep what is needed."""
        found: dict[str, Tensor] = {}
        gradient = _gradient(module) if self.due(step) or self.due(step + 1) else None
        if self.due(step) and self._before is not None and gradient is not None:
            before = self._before.to(gradient)
            found["cosine"] = torch.dot(before, gradient) / (before.norm() * gradient.norm())
        self._before = gradient if self.due(step + 1) else None
        return found

    def noise_scale(self, read: Mapping[str, Any]) -> dict[str, float]:
        """The noise scale by the moments that were read, averaged with those before."""
        if "square" not in read:
            return {}
        now = [read["variance"][0], read["square"][0]]
        before = self._averages or now
        self._averages = [_DECAY * b + (1 - _DECAY) * n for b, n in zip(before, now, strict=True)]
        scale = noise_scale(*self._averages)
        return {} if scale is None else {"noise_scale": scale}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training continues from."""
        return {"gradient": self._before, "averages": self._averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._before, self._averages = state["gradient"], state["averages"]


def _gradient(module: Classifier) -> Tensor | None:
    """∂L/∂θ as one vector, with zeros where there is none; None if there is none at all."""
    parameters = [p for p in module.network.parameters() if p.requires_grad]
    if all(p.grad is None for p in parameters):
        return None
    pieces = [torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in parameters]
    return torch.cat([piece.reshape(-1) for piece in pieces])
