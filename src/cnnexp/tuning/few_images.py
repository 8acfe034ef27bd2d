"""A part of a batch, for measuring where a step of the whole takes long.

To tell two ways apart takes pairs of steps, five at least, and a network of a second a step would have time
for one such comparison. Of a few images the same layers are as far apart, by and large, and a step takes
less time; whether what they chose is faster for the whole batch, steps of the whole batch say in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

__all__ = ["GOAL", "LONG", "SURELY", "faster_as_a_whole", "few_of"]

LONG = 0.25  # seconds; a longer step is measured on fewer images,
GOAL = 0.1  # so many that it takes about so long,
SURELY = 0.97  # of torch's time, a few pairs of steps tell from it
_SHARE = 8  # but at least this part of the batch: of too few the layers' shapes would be others
_ROWS = 8  # kernels multiply so many images together, and odd ones would cost as much as these
_PAIRS, _MORE = 2, 4  # of steps of the whole batch; more where two leave it open,
_CLEAR = 0.85  # and one where that leaves no doubt

Algorithms = Mapping[str, str]


def few_of(images: Tensor, seconds: float) -> Tensor:
    """Of ``images``, a step of which takes so many ``seconds``, as many as are measured: all of a short step.

    Examples:
        >>> import torch
        >>> from cnnexp.tuning.few_images import few_of
        >>> [len(few_of(torch.zeros(32, 1, 4, 4), seconds)) for seconds in (0.2, 0.4, 0.8, 60.0)]
        [32, 8, 8, 8]
        >>> len(few_of(torch.zeros(8, 1, 4, 4), 60.0))
        2
    """
    if seconds <= LONG or images.dim() == 0:
        return images
    count = max(round(len(images) * GOAL / seconds), -(-len(images) // _SHARE), 2)
    if (together := -(-count // _ROWS) * _ROWS) < len(images):
        count = together
    return images[:count] if count < len(images) else images


def faster_as_a_whole(
    seconds: Callable[[Algorithms], float], chosen: Algorithms, base: Algorithms
) -> float:
    """The time of the whole batch's step by ``chosen`` by that of ``base``, from a pair of steps, or a few.

    Examples:
        >>> from cnnexp.tuning.few_images import faster_as_a_whole
        >>> steps = iter([2.2, 2.0, 2.0, 2.0, 2.1, 2.1, 2.1, 2.3])
        >>> round(faster_as_a_whole(lambda _: next(steps), {"conv": "direct"}, {"conv": "native"}), 2)
        1.0
    """
    ours = torchs = 0.0
    for pair in range(1, _MORE + 1):
        # first, so that what a first step pays for does not favour ours
        torchs += seconds(base)
        ours += seconds(chosen)
        if ours < _CLEAR * torchs or (pair >= _PAIRS and ours >= torchs):
            break
    return ours / torchs
