"""What a regulariser is: a dataclass of knobs that takes part in some events of a training step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

EVENTS = ("images", "labels", "mix", "loss", "penalty", "gradients", "weights", "callbacks")


class Draws(Protocol):
    """The random numbers of a batch; see ``cnnexp.data.Draws``, of which this is what regularisers use."""

    @property
    def generator(self) -> torch.Generator:
        """Where they come from, on the CPU."""
        ...

    @property
    def epoch(self) -> int:
        """The epoch that the batch is of, from 0."""
        ...

    def uniform(
        self, *after: int, before: Sequence[int] = (), dtype: torch.dtype | None = None
    ) -> Tensor:
        r"""(\*before, n, \*after) in [0, 1), for the n images that are here."""
        ...

    def integers(self, below: int, *after: int, before: Sequence[int] = ()) -> Tensor:
        r"""(\*before, n, \*after) in 0 … ``below`` − 1, int64."""
        ...

    def partners(self) -> Tensor:
        """(n,) for each image here one of the whole batch, int64."""
        ...


class Regularizer:
    """A training method that takes part in those events of a step that its class overrides.

    A subclass is a dataclass: its fields are the knobs, which the config sets and checks by their types.
    ``__post_init__`` refuses values out of range with a ``ValueError``. The events, in the order of a step:

    ==============  ==============================================  =====================================
    event           is called                                       to
    ==============  ==============================================  =====================================
    ``images``      with each training batch                        change its images
    ``labels``      with each training batch                        change its labels
    ``mix``         with a batch, if it is this method's turn       blend its images, and so their labels
    ``loss``        once, before training                           change the loss that is minimised
    ``penalty``     with each loss                                  add a term to it
    ``gradients``   with each step, once the gradients are there    change them
    ``weights``     with each step, once the weights have moved     change them
    ``callbacks``   once, before training                           do what lies outside of a step
    ==============  ==============================================  =====================================

    Attributes:
        name: Its key in the config group ``regularization``, and of its penalty in the logs.
        order: Of two that take part in the same event, the one with the lower number comes first;
            among equals the name decides.
        sole: What no two methods can do in one training, such as ``"replace the weights"``.
        whole_weights: Whether it looks at weights or gradients as a whole, of which each process has
            a part under ``accelerator=fsdp``. None where the events tell: penalties, gradients and
            weights do.
        fixed_length: What it does with the number of epochs, such as ``"averages the last"``, if a run
            can therefore not be made longer.
    """

    name: str = ""
    order: int = 0
    sole: str = ""
    whole_weights: bool | None = None
    fixed_length: str = ""

    def require(self, fits: bool, knob: str, allowed: str) -> None:
        """Raise a ``ValueError`` that says what is ``allowed`` for ``knob``, unless its value ``fits``."""
        if not fits:
            value = getattr(self, knob)
            raise ValueError(
                f"regularization.{self.name}.{knob} must be {allowed}, but got {value}"
            )

    def images(self, images: Tensor, draws: Draws) -> Tensor:
        """Images (n, C, H, W) in 0…1 → those to train on, of the same shape; the input stays as it is."""
        raise NotImplementedError

    def labels(self, labels: Tensor, classes: int, draws: Draws) -> Tensor:
        """Labels (n,) of 0 … ``classes`` − 1 → those to train on."""
        raise NotImplementedError

    def mix(
        self, images: Tensor, others: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """Images and their partners (n, C, H, W) → mixtures, and the share of the first in the labels.

        Of several methods that mix, one is drawn for each batch.
        """
        raise NotImplementedError

    def loss(self, loss: nn.Module) -> nn.Module:
        """The loss of logits and labels that is trained by; ``loss`` itself stays as it is."""
        raise NotImplementedError

    def penalty(self, network: nn.Module) -> Tensor:
        """A term of the training loss, a scalar, logged as ``train/penalty/<name>``."""
        raise NotImplementedError

    def gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Change the ``.grad`` of the optimiser's ``parameters`` in place; it may be None."""
        raise NotImplementedError

    def weights(self, network: nn.Module) -> None:
        """Change the weights of ``network`` in place."""
        raise NotImplementedError

    def callbacks(self, monitor: str, mode: str) -> Sequence[Callback]:
        """New callbacks of Lightning's Trainer, for one training.

        Args:
            monitor: The validation metric that tells which epoch is best.
            mode: ``"max"`` or ``"min"``: which value of it is the best.
        """
        raise NotImplementedError


def takes_part(regularizer: Regularizer, event: str) -> bool:
    """Whether the class of ``regularizer`` overrides ``event``, one of :data:`EVENTS`."""
    own = getattr(type(regularizer), event)
    return callable(own) and own is not getattr(Regularizer, event)


def taking_part(regularizers: Iterable[Regularizer], event: str) -> list[Regularizer]:
    """The ``regularizers`` that take part in ``event``, in their order."""
    return [each for each in regularizers if takes_part(each, event)]
