"""The handwritten digits that come with scikit-learn: real data where there is no network.

1,797 images of 8×8 pixels in 17 grey values (the test part of UCI's "Optical Recognition of
Handwritten Digits"; Alpaydin & Kaynak, 1998), enlarged to 28×28 so that networks for
MNIST fit.
"""

from __future__ import annotations

import hashlib

import torch
from torch.nn import functional as F

from cnnexp.data.images import ImageSet, LabelledImages

_TEST_SHARE = 0.2


def load_digits(image_size: int = 28) -> ImageSet:
    """The digits as uint8 images of ``image_size`` × ``image_size``: 1,437 to train, 360 to test.

    The test images are a fixed fifth of each class, the same in every run. The images are enlarged
    bilinearly.

    Raises:
        ValueError: ``image_size`` is less than 8.
    """
    if image_size < 8:
        raise ValueError(f"digits need an image_size of at least 8, but got {image_size}")
    from sklearn import datasets, model_selection  # 1 s to import: only where digits are used

    pixels_of_each, classes = datasets.load_digits(return_X_y=True)
    small = torch.as_tensor(pixels_of_each).reshape(-1, 1, 8, 8) * (255 / 16)  # 0 to 16 → 0 to 255
    large = F.interpolate(small, size=(image_size, image_size), mode="bilinear")
    images = large.round().clamp(0, 255).to(torch.uint8)
    labels = torch.as_tensor(classes).long()
    train, test = model_selection.train_test_split(
        range(len(labels)), test_size=_TEST_SHARE, stratify=classes, random_state=0
    )
    train_images = LabelledImages(images[sorted(train)], labels[sorted(train)])
    pixels = train_images.images.double() / 255
    return ImageSet(
        name="digits",
        train=train_images,
        test=LabelledImages(images[sorted(test)], labels[sorted(test)]),
        classes=tuple(str(digit) for digit in range(10)),
        mean=(round(pixels.mean().item(), 4),),
        std=(round(pixels.std().item(), 4),),
        checksum=hashlib.md5(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest(),
    )
