"""The events of a training step, and the regularisers that take part in each.

images → labels → forward → loss + penalties → backward → gradients → update → weights. The LightningModule
knows these, not the methods; ``cnnexp.regularization.Regularizer`` says what a method may do in each.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from cnnexp.data import BatchSlice, Draws, seeded_generator
from cnnexp.regularization import EVENTS, Regularizer, mix, taking_part
from cnnexp.training.ranks import ALONE, Ranks


class StepEvents:
    """Calls, event by event, the regularisers that take part in it.

    Args:
        regularizers: Those of the training; of two in one event the first comes first.
        classes: How many classes there are.
        seed: Of random changes to images and labels, which are functions of (seed, epoch, batch).
        ranks: The processes of the training.
    """

    def __init__(
        self,
        regularizers: Sequence[Regularizer] = (),
        *,
        classes: int,
        seed: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        self._of = {event: taking_part(regularizers, event) for event in EVENTS}
        self._classes, self._seed, self._ranks = classes, seed, ranks

    def batch(
        self, images: Tensor, labels: Tensor, *, epoch: int, batch_idx: int, share: BatchSlice
    ) -> tuple[Tensor, Tensor]:
        """A batch as it is trained on, with targets that are labels or, if mixed, distributions.

        Args:
            images: (n, C, H, W) in 0…1.
            labels: (n,) of 0 … classes − 1.
            epoch, batch_idx: From 0.
            share: Which part of the batch these are.
        """
        if not any(self._of[event] for event in ("images", "labels", "mix")):
            return images, labels
        generator = seeded_generator(self._seed, epoch, batch_idx)
        draws = Draws(generator, share.of, share, epoch=epoch)
        for each in self._of["images"]:
            images = each.images(images, draws)
        for each in self._of["labels"]:
            labels = each.labels(labels, self._classes, draws)
        if not self._of["mix"]:
            return images, labels
        whole = [self._ranks.whole(x[: share.own], share.start, share.of) for x in (images, labels)]
        return mix(self._of["mix"], images, labels, self._classes, draws, (whole[0], whole[1]))

    def loss(self, loss: nn.Module) -> nn.Module:
        """The loss that is trained by, made of the one that is validated by."""
        for each in self._of["loss"]:
            loss = each.loss(loss)
        return loss

    def penalties(self, network: nn.Module) -> dict[str, Tensor]:
        """The terms that are added to the loss, by name."""
        return {each.name: each.penalty(network) for each in self._of["penalty"]}

    def gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Change the gradients of the optimiser's ``parameters`` before its step."""
        for each in self._of["gradients"]:
            each.gradients(parameters)

    @property
    def change_gradients(self) -> bool:
        """Whether any method takes part in the event ``gradients``."""
        return bool(self._of["gradients"])

    def weights(self, network: nn.Module) -> None:
        """Change the weights after the step."""
        for each in self._of["weights"]:
            each.weights(network)
