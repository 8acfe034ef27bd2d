"""What an epoch of batches costs: one gather from a uint8 tensor, beside torchvision's way, image by image.

    python benchmarks/batches.py --csv benchmarks/results/batches.csv

Images as many and as large as MNIST's, random, in batches of 128, until each is a normalised float tensor of
a whole batch. torchvision's way is its MNIST class's: a PIL image for each, ToTensor, Normalize, collate; in
this process and in two workers, whose start is part of an epoch as it is of a training's first. The ways take
turns; medians over the rounds.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from cnnexp.data import LabelledImages
from cnnexp.data.batches import batch_loader
from cnnexp.speed.result import conditions

MEAN, STD, BATCH = 0.1307, 0.3081, 128


class OneByOne(Dataset[tuple[Tensor, int]]):
    """Images as ``torchvision.datasets.MNIST`` gives them."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.images[index, 0].numpy())
        made: Any = self.transform(image)
        return made, int(self.labels[index])


def ways(images: Tensor, labels: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Each goes through an epoch and returns the sum of all pixels, so that they can be compared."""
    whole, single = LabelledImages(images, labels), OneByOne(images, labels)

    def gathered() -> Tensor:
        total = torch.zeros((), dtype=torch.double)
        for batch, _ in batch_loader(whole, BATCH, seed=0):
            total += ((batch.float() / 255 - MEAN) / STD).sum()
        return total

    def collated(workers: int) -> Tensor:
        total = torch.zeros((), dtype=torch.double)
        loader = DataLoader(single, BATCH, shuffle=True, num_workers=workers)
        for batch, _ in loader:
            total += batch.sum()
        return total

    return {
        "one uint8 tensor": gathered,
        "image by image": lambda: collated(0),
        "image by image, 2 workers": lambda: collated(2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    random = torch.Generator().manual_seed(0)
    shape = (options.images, 1, 28, 28)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=random)
    labels = torch.randint(10, (options.images,), generator=random)
    seconds: dict[str, list[float]] = {}
    sums: dict[str, float] = {}
    for _ in range(options.rounds):
        for name, epoch in ways(images, labels).items():
            start = time.perf_counter()
            sums[name] = epoch().item()
            seconds.setdefault(name, []).append(time.perf_counter() - start)
    first, *others = sums.values()
    assert all(abs(each - first) < 1e-3 * options.images for each in others), sums
    about = conditions(torch.device("cpu"))
    rows = []
    for name, each in seconds.items():
        middle = statistics.median(each)
        row = {"way": name, "seconds": round(middle, 3), "least": round(min(each), 3)}
        row |= {"greatest": round(max(each), 3), "images": options.images, "rounds": options.rounds}
        rows.append({**row, **about})
        print(f"{name:26} {middle:8.3f} s  ({min(each):.3f} to {max(each):.3f})")
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
