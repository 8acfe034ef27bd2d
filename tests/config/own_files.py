"""The files that some choices of the config need, made small, and the settings that go with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cnnexp.models import torchvision_model
from tests.data.picture_files import write_pictures

# choices that need arrays, and the targets that these must have
OF_ARRAYS = {
    "arrays": "classes",
    "binary_cross_entropy": "labels",
    **dict.fromkeys(("mse", "huber", "rmse", "r2"), "numbers"),
}
NEED_FILES = ("fine_tune", "csv", *OF_ARRAYS)


def settings_with_files(name: str, folder: Path) -> dict[str, str]:
    """Write what the choice ``name``, one of ``NEED_FILES``, needs into ``folder``; returns the settings."""
    if name == "csv":
        return _table(folder)
    return _fine_tune(folder) if name == "fine_tune" else _arrays(OF_ARRAYS[name], folder)


def _table(folder: Path) -> dict[str, str]:
    settings = _arrays("classes", folder)
    with np.load(settings["data.file"]) as found:
        images, labels = found["images"], found["labels"]
    for i, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    rows = [f"{i}.png,{'ab'[label]}" for i, label in enumerate(labels)]
    (folder / "mine.csv").write_text("\n".join(["file,kind", *rows]))
    return {"data": "csv", "data.file": str(folder / "mine.csv"), "data.num_workers": "0"}


def _fine_tune(folder: Path) -> dict[str, str]:
    write_pictures(folder / "pictures", count=10)
    weights = torchvision_model("resnet18", num_classes=1000).state_dict()
    torch.save(weights, folder / "resnet18.pth")
    named = {"data.folder": str(folder / "pictures"), "data.image_size": "32"}
    return {"data": "image_folder", **named, "init_from": str(folder / "resnet18.pth")}


def _arrays(kind: str, folder: Path) -> dict[str, str]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (300, 20, 24), dtype=np.uint8)
    bright = images.mean((1, 2))
    labels = {
        "classes": (bright > np.median(bright)).astype(int),
        "labels": np.stack([bright > np.median(bright), images[:, 0, 0] > 127], 1),
        "numbers": bright / 255,
    }[kind]
    file = folder / f"{kind}.npz"
    np.savez(file, images=images, labels=labels)
    settings = {"data": "arrays", "data.file": str(file)}
    if kind == "labels":
        settings["loss"] = "binary_cross_entropy"
    if kind == "numbers":
        settings |= {"loss": "mse", "checkpoint.monitor": "val/mae"}
    return settings
