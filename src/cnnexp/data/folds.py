"""Cross-validation: the training images cut into folds, each of which validates once.

Source: Kohavi, "A study of cross-validation and bootstrap for accuracy estimation and model selection"
(1995). The folds are those of scikit-learn's ``StratifiedKFold``, of labels and numbers of its ``KFold``,
shuffled.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["fold_of"]


def fold_of(
    labels: Tensor, classes: Sequence[str] | None, folds: int, fold: int, seed: int
) -> Tensor:
    """The indices of the images that validate in ``fold``, in increasing order.

    The folds have no image in common and all images together; their sizes differ by one image at most,
    and with ``classes`` the number of images of each class in them as well.

    Args:
        labels: (N,) int64 of classes; or (N, K), of which only N counts.
        classes: The name of each class, by which the folds are stratified; None where an image has several
            labels or numbers.
        folds: How many parts there are, ≥ 2.
        fold: Which part, 0 to ``folds`` − 1.
        seed: Of the shuffling, 0 to 2³² − 1; the same for all folds of one cross-validation.

    Raises:
        ValueError: There are fewer images, or fewer of a class, than folds.
    """
    from sklearn.model_selection import KFold, StratifiedKFold  # late: it takes half a second

    few = len(labels)
    what = "the set has {} training images"
    if classes is not None:
        counts = torch.bincount(labels, minlength=len(classes))
        present = counts.masked_fill(counts == 0, len(labels))
        few, name = int(present.min()), classes[int(present.argmin())]
        what = f"the class {name} has {{}} training images"
    if few < folds:
        most = f"; at most data.folds={few}" if few > 1 else ""
        raise ValueError(
            f"data.folds={folds}: {what.format(few)}, so that not every fold can have one{most}"
        )
    kind = KFold if classes is None else StratifiedKFold
    parts = kind(n_splits=folds, shuffle=True, random_state=seed).split(labels, labels)
    held_out = [held for _, held in parts][fold]
    return torch.from_numpy(held_out).sort().values
