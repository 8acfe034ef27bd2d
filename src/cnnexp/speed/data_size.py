"""How batches, and their memory, depend on the number of images: in memory, and in a mapped file."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from cnnexp.data import ImageDataModule, ImageSet, LabelledImages, MappedImages, Samples
from cnnexp.data.batches import gathered_together
from cnnexp.speed.result import spread
from cnnexp.speed.scaled import Scaled
from cnnexp.tuning.memory import free_bytes, own_bytes

__all__ = ["DATA_SIZES", "bench_data"]

DATA_SIZES = (6_000, 60_000, 600_000, 6_000_000)
HELD, MAPPED = "in memory", "mapped file"
_SHAPE = (1, 28, 28)
_IMAGE = 28 * 28  # bytes
_HELD_BY = 2.2 * _IMAGE  # bytes an image: the set, and the file in the page cache
_DRAWN = 6_000  # random images; more are these again, which cost the same
_BATCHES = 50  # in a round
_STARTS = 3  # how many epochs are begun


def bench_data(
    sizes: Sequence[int], batch_size: int, *, folder: Path | None = None, rounds: int = 15
) -> Iterator[Scaled]:
    """Time the batches of sets of ``sizes`` random images of 28×28, from memory and from a mapped file.

    A batch is drawn from all images as in a training, gathered and made float in 0…1. The ways take turns.
    The file has just been written, so that the system's page cache holds as much of it as fits. Each
    row has these figures: ``data_mb``, the size of the images; ``own_mb``, how much memory the process takes
    for the set and its batches, at most, without the file's pages, which the system may drop (Linux only);
    ``start_ms``, the time to an epoch's first batch, which contains drawing its order; and ``epoch_s``, the
    seconds of a whole epoch as they follow from start and batches.

    Args:
        sizes: Numbers of images, each ≥ 1.
        batch_size: Images a batch, ≥ 1.
        folder: Where the files lie for the time of the measurement; None for the system's temporary folder.
        rounds: How often 50 batches of each way are timed.
    """
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="cnnexp-scale-", dir=folder) as place:
            yield from _at(size, batch_size, Path(place), rounds)


def _at(size: int, batch_size: int, place: Path, rounds: int) -> list[Scaled]:
    what = f"{size:,} images of 28×28, batch {batch_size}"
    room = shutil.disk_usage(place).free
    modules: dict[str, ImageDataModule] = {}
    own: dict[str, int | None] = {}
    rows = []
    for way in (MAPPED, HELD):  # the file first: what it takes is seen while nothing else is held
        needed, free = (size * _IMAGE, room) if way == MAPPED else (_HELD_BY * size, free_bytes())
        if free is not None and needed > 0.9 * free:
            of = "disk" if way == MAPPED else "memory"
            why = f"left out: needs {needed / 1e9:.1f} GB of {of}, {free / 1e9:.1f} are free"
            rows.append(Scaled(what, way, note=why, axis="data", value=size))
            continue
        if way == MAPPED:
            _write(place / "images.npy", size)
        before = own_bytes()
        modules[way] = _module(way, size, batch_size, place)
        held = [own_bytes() for _ in zip(range(_BATCHES), _batches(modules[way]), strict=False)]
        most = max((each for each in held if each is not None), default=None)
        own[way] = None if before is None or most is None else max(0, most - before)
    starts, times = _turns(modules, rounds)
    for way, found in times.items():
        middle, low, high = spread(found)
        start = spread(starts[way])[0]
        figures = {"data_mb": size * _IMAGE / 1e6}
        taken = own[way]
        if taken is not None:
            figures["own_mb"] = taken / 1e6
        figures |= {"start_ms": start, "epoch_s": (start + middle * size / batch_size) / 1e3}
        ratios = {HELD: middle / spread(times[HELD])[0]} if HELD in times else {}
        row = Scaled(what, way, {"full": middle}, low, high, rounds, ratios=ratios)
        row.axis, row.value, row.images = "data", size, min(batch_size, size)
        row.figures = figures
        rows.append(row)
    return rows


def _turns(
    modules: dict[str, ImageDataModule], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Of each way: seconds to first batches, and seconds of a batch, the mean of each round."""
    starts: dict[str, list[float]] = {way: [] for way in modules}
    times: dict[str, list[float]] = {way: [] for way in modules}
    for _ in range(_STARTS):
        for way, module in modules.items():
            begin = time.perf_counter()
            next(_batches(module))
            starts[way].append(time.perf_counter() - begin)
    running = {way: _timed(module) for way, module in modules.items()}
    for _ in range(1 + rounds):
        for way, each in running.items():
            times[way].append(sum(next(each) for _ in range(_BATCHES)) / _BATCHES)
    return starts, {way: found[1:] for way, found in times.items()}


def _timed(module: ImageDataModule) -> Iterator[float]:
    """The seconds of one batch after the other, through as many epochs as are asked for.

    An epoch's start is not among them, with the batches that are gathered at once then, nor its last batch,
    which may be smaller, where there are others.
    """
    ahead = gathered_together(module.train, module.batch_size)
    while True:
        batches, count = _batches(module), len(module.train_dataloader())
        for _ in range(min(ahead, max(1, count - 1))):
            next(batches)
        for _ in range(max(1, count - 1 - ahead)):
            begin = time.perf_counter()
            if next(batches, None) is None:
                batches = _batches(module)
                begin = time.perf_counter()
                next(batches)
            yield time.perf_counter() - begin


def _batches(module: ImageDataModule) -> Iterator[torch.Tensor]:
    for batch in module.train_dataloader():
        yield module.on_after_batch_transfer((batch[0], batch[1]), 0)[0]


def _module(way: str, size: int, batch_size: int, place: Path) -> ImageDataModule:
    """The set as a training has it: loaded, split, and batched."""
    file = place / "images.npy"
    labels = torch.arange(size) % 10

    def load() -> ImageSet:
        train: Samples
        if way == MAPPED:
            images = torch.from_numpy(np.load(file, mmap_mode="c"))
            train = MappedImages(images, labels, file)
        else:
            train = LabelledImages(_drawn().repeat(-(-size // _DRAWN), 1, 1, 1)[:size], labels)
        few = LabelledImages(_drawn()[:10], torch.arange(10))
        return ImageSet("random", train, few, tuple(map(str, range(10))), (0.5,), (0.3,), "")

    module = ImageDataModule(load, batch_size=batch_size, val_size=0)
    module.split()
    return module


def _drawn() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(256, (_DRAWN, *_SHAPE), dtype=torch.uint8, generator=random)


def _write(file: Path, size: int) -> None:
    content = np.lib.format.open_memmap(file, "w+", np.uint8, (size, *_SHAPE))
    drawn = _drawn().numpy()
    for start in range(0, size, _DRAWN):
        part = content[start : start + _DRAWN]
        part[:] = drawn[: len(part)]
    content.flush()
