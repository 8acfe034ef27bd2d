"""The weights that a training begins with, where they are another network's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cnnexp.models import Transfer, transfer_weights
from cnnexp.training.weight_files import WeightFileError, read_weights

__all__ = ["StartingWeights", "StartingWeightsError"]

_AUXILIARY = (
    "aux",
    "AuxLogits",
)  # heads of torchvision's networks that only their own training uses


class StartingWeightsError(RuntimeError):
    """The weights to start from cannot be read, or do not fit the network."""


@dataclass
class StartingWeights:
    """Weights in a file, to be given to a network before its first step.

    Attributes:
        name: What the user called them, for messages and provenance.json.
        file: Where they are.
        sha256: Of the file's content; another content is refused.
        layers: The layers that get them; all if empty.
        of_torchvision: Whether auxiliary heads are left out, which no network here has.
    """

    name: str
    file: Path
    sha256: str
    layers: Sequence[str] = ()
    of_torchvision: bool = False
    _weights: Mapping[str, Tensor] | None = field(default=None, repr=False)

    def read(self) -> None:
        """Read the file, once: what is checked is what the training starts from.

        Raises:
            StartingWeightsError: It cannot be read, is corrupt, or has changed.
        """
        if self._weights is not None:
            return
        try:
            weights = read_weights(self.file, self.sha256)
        except WeightFileError as error:
            raise StartingWeightsError(f"init_from={self.name}: {error}") from error
        if self.of_torchvision:
            weights = {
                n: v
                for n, v in weights.items()
                if n.partition(".")[0].strip("12") not in _AUXILIARY
            }
        self._weights = weights

    def give_to(self, network: nn.Module) -> Transfer:
        """Copy them into ``network``; one on the meta device is checked alone.

        Raises:
            StartingWeightsError: As :meth:`read`; or they do not fit, or the last layer, which is made
                anew, is frozen.
        """
        self.read()
        assert self._weights is not None
        try:
            given = transfer_weights(network, self._weights, self.layers)
        except ValueError as error:
            raise StartingWeightsError(f"init_from={self.name}: {error}") from error
        if given.anew and not any(
            p.requires_grad for p in network.get_submodule(given.anew).parameters()
        ):
            raise StartingWeightsError(
                f"init_from={self.name}: the last layer, {given.anew}, does not fit and is made anew, but "
                f"parameters.frozen keeps it from learning; leave it out there"
            )
        if not any(p.is_meta for p in network.parameters()):
            self._weights = None  # the network has them; whoever begins anew reads the file again
        return given

    def described(self, given: Transfer) -> dict[str, Any]:
        """The entry ``init_from`` of provenance.json."""
        about = {"name": self.name, "file": str(self.file), "sha256": self.sha256}
        return {
            **about,
            "layers": list(self.layers),
            "tensors": len(given.taken),
            "anew": given.anew or None,
        }
