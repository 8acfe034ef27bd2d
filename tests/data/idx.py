"""Write small files in the official IDX format of MNIST."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import torch


def write_mnist(root: Path, train: int = 40, test: int = 20) -> dict[str, str]:
    """A small MNIST under ``root``; returns the md5 of each file."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    checksums = {}
    for part, count in (("train", train), ("t10k", test)):
        pixels = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
        labels = torch.arange(count).remainder(10).to(torch.uint8)
        files = {
            f"{part}-images-idx3-ubyte": struct.pack(">IIII", 2051, count, 28, 28),
            f"{part}-labels-idx1-ubyte": struct.pack(">II", 2049, count),
        }
        for (name, head), body in zip(files.items(), (pixels, labels), strict=True):
            content = head + body.numpy().tobytes()
            (folder / name).write_bytes(content)
            checksums[name] = hashlib.md5(content).hexdigest()
    return checksums
