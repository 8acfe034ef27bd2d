"""The data module: an image set, split, batched and moved to the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cnnexp.data.batches import BatchOrder, batch_loader, loader_of
from cnnexp.data.draws import BatchSlice
from cnnexp.data.folds import fold_of
from cnnexp.data.images import ImageSet, Samples
from cnnexp.data.poisson import PoissonBatches, SharedSecret

__all__ = ["SAMPLING", "ImageDataModule"]

SAMPLING = ("shuffle", "poisson")


class _OnDevice(L.LightningDataModule):
    """How batches of uint8 images get to the device."""

    def transfer_batch_to_device(
        self, batch: tuple[Tensor, Tensor], device: torch.device, dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        """The batch on ``device``; Lightning would look through it even where it is there already."""
        if all(part.device == device for part in batch):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Scale the pixels to 0…1 on the device, so that a pixel travels there as one byte instead
        of four.
        """
        images, labels = batch
        if images.dtype == torch.uint8 and torch.get_default_dtype() == torch.float32:
            return images.div(255), labels  # by one operation
        return images.float().div_(255), labels


class ImageDataModule(_OnDevice):
    """Batches of (images (B, C, H, W) float32 in 0…1, labels (B,) int64) of one image set.

    The training images are split once, by ``split_seed``: ``val_size`` of them are for validation, the
    others for training. A set that stands in for another one is split in the same proportion. The
    official test images appear in test batches only.

    Args:
        load: The function that loads the image set; called once, at the first use.
        batch_size: Images per training batch, ≥ 1; with Poisson sampling their expected number.
        eval_batch_size: Images per validation or test batch, ≥ 1.
        val_size: How many training images are held out for validation, 0 for none; or, between 0 and 1,
            their share of all. None are where the set brings validation images of its own. None with
            ``folds``.
        folds: Into how many parts the training images are cut for a cross-validation, ≥ 2, see
            :func:`~cnnexp.data.folds.fold_of`; None for none.
        fold: The part that is for validation, counted from 0; the others are for training.
        train_size: How many images are trained on, drawn by ``split_seed``; or, between 0 and 1, their
            share of those that remain; None for all of these.
        classes: Names of the classes to keep, see ``ImageSet.keep_classes``; None for all.
        split_seed: Seed of the split, or of the folds, which depend on nothing else.
        shuffle_seed: Seed of the order of training batches, which is new in each epoch.
        num_workers: Processes that load the training batches, and as many again for validation;
            with 0 the training process loads them.
        pin_memory: Keep batches in page-locked memory (for a GPU).
        sampling: ``shuffle`` gives each image to one batch of an epoch; ``poisson`` draws each image for each
            batch independently, see :class:`~cnnexp.data.poisson.PoissonBatches`.
        secret: Whether Poisson samples are drawn from the operating system's secure source instead of
            ``shuffle_seed``; then nobody can tell afterwards who was in a batch, and a resumed training
            draws anew, which changes nothing, since the draws are independent.

    Raises:
        ValueError: An unknown ``sampling``, or ``secret`` without Poisson sampling; at the first use, if
            ``val_size`` and ``train_size`` ask for more images than there are, ``folds`` for more parts than
            there are images of each class, or for any where the set brings validation images of its own, or
            ``classes`` for one that does not exist.
    """

    def __init__(
        self,
        load: Callable[[], ImageSet],
        *,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        val_size: float | None = 5000,
        folds: int | None = None,
        fold: int | None = None,
        train_size: float | None = None,
        classes: Sequence[str] | None = None,
        split_seed: int = 0,
        shuffle_seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        sampling: str = "shuffle",
        secret: bool = False,
    ) -> None:
        super().__init__()
        if sampling not in SAMPLING:
            raise ValueError(f"data.sampling={sampling!r}: must be one of {', '.join(SAMPLING)}")
        if secret and sampling != "poisson":
            raise ValueError(
                f"data.secret=true: needs data.sampling=poisson, not {sampling}; no other batches are private"
            )
        self._load = load
        self._images: ImageSet | None = None
        self._split: tuple[Samples, Samples] | None = None
        self._chosen = torch.empty(0, dtype=torch.int64)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_size, self.train_size = val_size, train_size
        self.folds, self.fold = folds, fold
        self._classes = None if classes is None else tuple(classes)
        self.split_seed, self.shuffle_seed = split_seed, shuffle_seed
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.sampling, self.secret = sampling, secret
        self._epoch, self._skip, self._same = 0, 0, False
        self._sampler: BatchOrder | PoissonBatches | None = None
        self._rank, self._ranks = 0, 1
        self._shared: SharedSecret | None = None

    @property
    def images(self) -> ImageSet:
        """The image set, loaded at the first use."""
        if self._images is None:
            images = self._load()
            self._images = images if self._classes is None else images.keep_classes(self._classes)
        return self._images

    @property
    def title(self) -> str:
        """The name of the image set, with the fold that validates: ``digits, fold 2 of 0…4``."""
        fold = "" if self.folds is None else f", fold {self.fold} of 0…{self.folds - 1}"
        return f"{self.images.name}{fold}"

    @property
    def train(self) -> Samples:
        """The images trained on."""
        return self.split()[0]

    @property
    def val(self) -> Samples:
        """The images held out for validation."""
        return self.split()[1]

    def split(self) -> tuple[Samples, Samples]:
        """The (training, validation) images, split at the first use."""
        if self._split is None:
            whole, own = self.images.train, self.images.val
            held_out, rest = _parts(self)
            room, wanted = len(rest), len(rest)
            if self.train_size is not None:
                wanted = max(1, _count(self.train_size, room, _scale(self.images)))
            if room < 1 or wanted > room:
                held = (
                    f"data.val_size={self.val_size}"
                    if self.folds is None
                    else f"{self.folds} folds"
                )
                raise ValueError(
                    f"{self.images.name} has {len(whole)} training images: too few for "
                    f"{held} and data.train_size={self.train_size}"
                )
            self._chosen = rest[:wanted].sort().values
            self._split = (
                whole.select(self._chosen),
                whole.select(held_out.sort().values) if own is None else own,
            )
        return self._split

    @property
    def sampling_rate(self) -> float:
        """The probability with which each training image is in a batch: the expected batch size divided
        by their number.

        Raises:
            ValueError: The images are shuffled, so that those of a batch are not drawn independently.
        """
        if self.sampling != "poisson":
            raise ValueError(
                f"data.sampling={self.sampling}: has no sampling rate, since what is in one batch is in no "
                f"other; set data.sampling=poisson"
            )
        return PoissonBatches(len(self.train), self.batch_size, None).rate

    def start_at(self, epoch: int, batch: int) -> None:
        """Let the next training loader begin with batch ``batch`` of epoch ``epoch``, each counted
        from 0.
        """
        self._epoch, self._skip = epoch, batch

    def repeat_first_epoch(self, same: bool) -> None:
        """Let every training epoch have the batches of the first one or, if ``same`` is False, its
        own order.
        """
        self._same = same

    def share_with(self, rank: int, ranks: int, key: bytes | None = None) -> None:
        """Let this process have slice ``rank`` (from 0) of each batch, which ``ranks`` processes
        share.

        Args:
            rank, ranks: Which of how many.
            key: 32 random bytes, the same for all, that they draw from where draws are secret.

        Raises:
            ValueError: Secret samples are to be shared without a key.
        """
        if ranks > 1 and self.secret and key is None:
            raise ValueError(
                f"data.secret=true: {ranks} processes need one key to draw the same batches from"
            )
        self._rank, self._ranks = rank, ranks
        self._shared = SharedSecret(key) if ranks > 1 and self.secret and key is not None else None

    def share(self, batch: int) -> BatchSlice:
        """The slice of training batch ``batch``, counted from 0, that this process has.

        A Poisson sample is that of the epoch that the newest training loader is in.

        Raises:
            ValueError: The batch is drawn secretly.
        """
        if isinstance(self._sampler, PoissonBatches):
            return self._sampler.share(batch)
        if self.sampling == "poisson":
            images = len(self.members(self._epoch, batch))
        else:
            images = min(self.batch_size, len(self.train) - batch * self.batch_size)
        return BatchSlice.of_rank(images, self._rank, self._ranks)

    def members(self, epoch: int, batch: int) -> Tensor:
        """The indices of the images in training batch ``batch`` of ``epoch``, each counted from 0.

        Returns:
            (B,) indices into the training images of the whole set (with ``classes``, of what these
            leave of it).

        Raises:
            ValueError: The batch is drawn secretly.
        """
        order = _training_batches(self, epoch=epoch, same=self._same)
        return self._chosen[order.batch(batch)]

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """A loader of shuffled or of Poisson-sampled batches of the training images.

        Raises:
            ValueError: Poisson samples of more images than there are, or secret ones that are to be the
                same in each epoch.
        """
        self._sampler = _training_batches(
            self,
            epoch=self._epoch,
            skip=self._skip,
            same=self._same,
            rank=self._rank,
            ranks=self._ranks,
        )
        return loader_of(
            self.train, self._sampler, num_workers=self.num_workers, pin_memory=self.pin_memory
        )

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """A loader of the validation images in order; it has no batches with ``val_size=0``."""
        return _in_order(self, self.val, self._rank, self._ranks)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """A loader of the official test images in order."""
        return _in_order(self, self.images.test, self._rank, self._ranks)


def _parts(data: ImageDataModule) -> tuple[Tensor, Tensor]:
    """The indices of the training images that are held out for validation, and of the others in the order
    in which they are taken.
    """
    images, count = data.images, len(data.images.train)
    generator = torch.Generator().manual_seed(data.split_seed)
    order = torch.randperm(count, generator=generator)
    if data.folds is None:
        own = images.val is not None
        val_size = 0 if own else _count(data.val_size or 0, count, _scale(images))
        return order[:val_size], order[val_size:]
    if images.val is not None:
        raise ValueError(
            f"data.folds={data.folds}: {images.name} brings {len(images.val)} validation images of its own; "
            f"set data.folds=null"
        )
    assert data.fold is not None
    classes = images.classes if images.targets == "classes" else None
    held_out = fold_of(images.train.labels, classes, data.folds, data.fold, data.split_seed)
    return held_out, order[~torch.isin(order, held_out)]


def _scale(images: ImageSet) -> float:
    """How many images the set has by one of that which it stands in for."""
    return len(images.train) / images.stands_in_for if images.stands_in_for else 1.0


def _training_batches(
    data: ImageDataModule,
    *,
    epoch: int,
    same: bool,
    skip: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> BatchOrder | PoissonBatches:
    """The sampler of the training images, from ``epoch`` on."""
    size, begin = len(data.train), {"epoch": epoch, "skip": skip}
    if data.sampling == "poisson":
        seed = None if data.secret else data.shuffle_seed
        secret = data._shared  # noqa: SLF001
        return PoissonBatches(
            size, data.batch_size, seed, same=same, rank=rank, ranks=ranks, secret=secret, **begin
        )
    return BatchOrder(
        size, data.batch_size, data.shuffle_seed, same=same, rank=rank, ranks=ranks, **begin
    )


def _in_order(
    data: ImageDataModule, images: Samples, rank: int, ranks: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """A loader of images that are not trained on."""
    return batch_loader(
        images,
        data.eval_batch_size,
        num_workers=data.num_workers,
        pin_memory=data.pin_memory,
        rank=rank,
        ranks=ranks,
    )


def _count(size: float, of: int, scale: float) -> int:
    """The number of images that ``size`` asks for, out of ``of``.

    An integer is a number of images in a set that is 1/``scale`` times as large as this one; a float is a
    share of ``of``.
    """
    return round(size * scale) if isinstance(size, int) else round(size * of)
