"""What the programs share: MNIST as arrays, one split, the lines by which they tell how far they are.

Only numpy is imported, so that a program of another framework starts as fast as its own imports let it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

HELD_OUT, MEAN, DEVIATION = 12, 0.1307, 0.3081  # one image of twelve is held out


class Part(NamedTuple):
    """Images (N, 28, 28), normalised to mean 0 and deviation 1, and their labels (N,)."""

    images: np.ndarray
    labels: np.ndarray


class Task(NamedTuple):
    """What a program is asked for on its command line."""

    data: Path
    epochs: int
    seed: int
    way: str


def asked(*ways: str) -> Task:
    """The command line of a program; ``ways`` are those among which ``--way`` chooses."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="the folder that has MNIST/raw")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--way", choices=ways or ("",), default=ways[0] if ways else "")
    options = parser.parse_args()
    return Task(options.data, options.epochs, options.seed, options.way)


def parts(data: Path, seed: int) -> tuple[Part, Part, Part]:
    """55,000 images to train on, the other 5,000 to validate on, the 10,000 test images."""
    images, labels = _read(data, "train")
    order = np.random.default_rng(seed).permutation(len(images))
    held_out, train = np.split(order, [len(order) // HELD_OUT])
    return (
        Part(images[train], labels[train]),
        Part(images[held_out], labels[held_out]),
        Part(*_read(data, "t10k")),
    )


def _read(data: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    raw = data / "MNIST" / "raw"
    pixels = np.fromfile(raw / f"{prefix}-images-idx3-ubyte", np.uint8, offset=16)
    labels = np.fromfile(raw / f"{prefix}-labels-idx1-ubyte", np.uint8, offset=8)
    images = (pixels.reshape(-1, 28, 28).astype(np.float32) / 255 - MEAN) / DEVIATION
    return images, labels.astype(np.int64)


def say(event: str, *values: object) -> None:
    """A line: ``first step``, ``epoch <number> <accuracy>``, ``trained <seconds> <of the processor>``,
    ``test <accuracy>``.
    """
    print(event, *values, flush=True)
