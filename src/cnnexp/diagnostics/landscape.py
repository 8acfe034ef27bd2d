"""The loss around the weights: how noisy its gradient is, and how strongly it curves.

Both measure the function that is minimised: with batch normalisation by the batch, without dropout.
The network is left as it was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cnnexp.diagnostics.layers import is_of

Loss = Callable[[Tensor, Tensor], Tensor]
Mean = Callable[[Tensor], Tensor]


def _alone(value: Tensor) -> Tensor:
    return value


@contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """Switch dropout off inside the context; afterwards restore modes, buffers and random states."""
    dropouts = [(m, m.training) for m in network.modules() if is_of(m, "dropout")]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            for module, _ in dropouts:
                module.training = False
            yield
    finally:
        for module, training in dropouts:
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def gradient_moments(
    loss: Loss,
    parameters: Sequence[Tensor],
    images: Tensor,
    targets: Tensor,
    parts: int = 8,
    *,
    least: int = 1,
    mean: Mean = _alone,
    ranks: int = 1,
    batch: int | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Unbiased estimates of tr Σ, the variance of one image's gradient, and |G|², of the true gradient.

    They are computed from the squared norms of the gradients of equal parts of a batch and of the whole
    batch.

    Args:
        loss: Maps (images, targets) to their mean loss.
        parameters: The parameters that the gradients are taken with respect to.
        images, targets: This rank's slice of the batch; images that do not fit into equal parts are
            left out.
        parts: How many parts the whole batch is cut into, ≥ 2; fewer where they would be smaller than
            ``least``.
        least: The least number of images per part; batch normalisation needs two.
        mean: Gives the mean of a tensor over the ranks.
        ranks: How many ranks there are.
        batch: How many images the whole batch has, which all ranks must agree on; None for one rank.

    Returns:
        Two scalars; None for a batch that is too small to be cut.

    Source: McCandlish, Kaplan, Amodei et al., "An Empirical Model of Large-Batch Training" (2018),
    appendix A.1.
    """
    each = (batch or images.size(0)) // ranks  # the smallest slice of a rank
    here = min(max(1, parts // ranks), each // least)
    if here == 0 or here * ranks < 2:
        return None
    size = each // here
    squares, total = images.new_zeros(()), None
    for part in range(here):
        where = slice(part * size, (part + 1) * size)
        value = loss(images[where], targets[where])
        gradient = _flat(torch.autograd.grad(value, parameters, materialize_grads=True))
        squares = squares + gradient.square().sum()
        total = gradient if total is None else total + gradient
    assert total is not None
    small = mean(squares / here)
    big = mean(total / here).square().sum()
    count = here * ranks
    variance = (small - big) * size * count / (count - 1)
    return variance, (count * big - small) / (count - 1)


def noise_scale(variance: float, square: float) -> float | None:
    """The ratio tr Σ/|G|²: the batch size beyond which larger ones save few steps; None if |G|² ≤ 0.

    Both arguments are estimates, best averaged over some steps first; that of |G|² may be negative.

    Source: McCandlish et al. (2018), section 2.2, equation 2.9.
    """
    return max(variance, 0.0) / square if square > 0 else None


def sharpness(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    *,
    mean: Mean = _alone,
    iterations: int = 30,
    tolerance: float = 1e-2,
    seed: int = 0,
) -> float:
    """The largest eigenvalue of the Hessian ∂²L/∂θ², by power iteration with Hessian-vector products.

    H·v = ∂(∂L/∂θ · v)/∂θ, so the hand-derived backwards are differentiated once more. If the
    eigenvalue of the greatest magnitude is negative, a second iteration, of H shifted by it, finds
    the largest.

    Args:
        loss: Computes the mean loss at the present parameters.
        parameters: θ.
        mean: Gives the mean of a tensor over the ranks.
        iterations: At most this many in each power iteration; the estimate approaches from below.
        tolerance: The relative change of the eigenvalue at which to stop.
        seed: Seed of the first vector.

    Source: Pearlmutter, "Fast exact multiplication by the Hessian" (1994); Cohen et al., "Gradient
    Descent on Neural Networks Typically Occurs at the Edge of Stability" (2021).
    """
    parameters = [p for p in parameters if p.requires_grad]
    found = torch.autograd.grad(loss(), parameters, create_graph=True, allow_unused=True)
    used = [(p, g) for p, g in zip(parameters, found, strict=True) if g is not None]
    parameters, gradients = [p for p, _ in used], [g for _, g in used]
    if not any(g.requires_grad for g in gradients):  # a loss without curvature
        return 0.0

    def product(vector: Tensor) -> Tensor:
        pieces = _like(vector, parameters)
        bent = [(g, piece) for g, piece in zip(gradients, pieces, strict=True) if g.requires_grad]
        found = torch.autograd.grad(
            [g for g, _ in bent],
            parameters,
            [piece for _, piece in bent],
            retain_graph=True,
            materialize_grads=True,
        )
        return mean(_flat(found))

    greatest = _power(product, parameters, iterations, tolerance, seed)
    if not greatest < 0:  # true for NaN as well
        return greatest
    shifted = _power(lambda v: product(v) - greatest * v, parameters, iterations, tolerance, seed)
    return shifted + greatest


def _power(
    product: Callable[[Tensor], Tensor],
    parameters: Sequence[Tensor],
    iterations: int,
    tolerance: float,
    seed: int,
) -> float:
    first = parameters[0]
    generator = torch.Generator().manual_seed(seed)
    size = sum(p.numel() for p in parameters)
    vector = torch.randn(size, generator=generator).to(first.device, first.dtype)
    vector /= vector.norm()
    value = 0.0
    for _ in range(iterations):
        image = product(vector)
        before = value
        value, length = torch.stack((vector @ image, image.norm())).tolist()
        settled = abs(value - before) <= tolerance * abs(value)
        if settled or not length > 0 or not math.isfinite(length):
            break
        vector = image / length
    return value


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def _like(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    pieces = vector.split([p.numel() for p in parameters])
    return [piece.view(p.shape) for piece, p in zip(pieces, parameters, strict=True)]
