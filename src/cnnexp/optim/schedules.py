"""Learning-rate schedules that know how long the training is.

A schedule is a callable (optimizer, total_steps, …) → ``torch.optim.lr_scheduler.LRScheduler``;
one step of it is one step of the optimiser. It multiplies the initial learning rate of every
parameter group by a factor that depends on the step t = 0 … T − 1, T = ``total_steps``. Parts of
a training are given as fractions of T, so that a schedule fits any length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)


def cosine(optimizer: Optimizer, total_steps: int, min_lr: float = 0.0) -> CosineAnnealingLR:
    """Half a cosine from the optimiser's learning rate down to ``min_lr`` over the whole training.

    Args:
        optimizer: The optimiser; the schedule starts at its learning rates.
        total_steps: Optimiser steps of the whole training, ≥ 1.
        min_lr: The learning rate at the end, ≥ 0.

    Raises:
        ValueError: ``min_lr`` is negative.

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017),
    equation 5, without restarts.

    Examples:
        >>> import torch
        >>> from cnnexp.optim import cosine
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = cosine(optimizer, total_steps=4)
        >>> rates = []
        >>> for _ in range(4):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [1.0, 0.854, 0.5, 0.146]
    """
    _at_least_zero(min_lr=min_lr)
    return CosineAnnealingLR(optimizer, T_max=max(total_steps, 1), eta_min=min_lr)


def warmup_cosine(
    optimizer: Optimizer, total_steps: int, warmup: float = 0.1, min_factor: float = 0.0
) -> LRScheduler:
    """A linear rise from almost 0 over ``warmup``·T steps, then half a cosine down to ``min_factor``.

    Raises:
        ValueError: ``warmup`` is not in [0, 1), or ``min_factor`` not in [0, 1].

    Source: Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.2, for the warm-up.

    Examples:
        >>> import torch
        >>> from cnnexp.optim import warmup_cosine
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = warmup_cosine(optimizer, total_steps=6, warmup=0.5)
        >>> rates = []
        >>> for _ in range(6):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.333, 0.667, 1.0, 1.0, 0.5, 0.0]
    """
    _fractions(min_factor=min_factor)

    def fall(t: int, steps: int) -> float:
        return min_factor + (1 - min_factor) * (1 + math.cos(math.pi * _share(t, steps))) / 2

    return _after_warmup(optimizer, total_steps, warmup, fall)


def linear(
    optimizer: Optimizer, total_steps: int, warmup: float = 0.0, min_factor: float = 0.0
) -> LRScheduler:
    """A linear rise over ``warmup``·T steps, then a linear fall to ``min_factor``.

    Raises:
        ValueError: ``warmup`` is not in [0, 1), or ``min_factor`` not in [0, 1].

    Examples:
        >>> import torch
        >>> from cnnexp.optim import linear
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = linear(optimizer, total_steps=5)
        >>> rates = []
        >>> for _ in range(5):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    _fractions(min_factor=min_factor)
    return _after_warmup(
        optimizer, total_steps, warmup, lambda t, steps: 1 - (1 - min_factor) * _share(t, steps)
    )


def wsd(
    optimizer: Optimizer,
    total_steps: int,
    warmup: float = 0.05,
    decay: float = 0.2,
    min_factor: float = 0.0,
) -> LRScheduler:
    """Warm-up, stable, decay: a linear rise, a constant, and a fall over the last ``decay``·T steps.

    The fall follows 1 − √s, with s from 0 to 1, down to ``min_factor``.

    Raises:
        ValueError: ``warmup`` is not in [0, 1), ``decay`` or ``min_factor`` is not in [0, 1], or
            ``warmup`` and ``decay`` add up to more than 1.

    Source: Hu et al., "MiniCPM" (2024), section 4; Hägele et al., "Scaling Laws and
    Compute-Optimal Training Beyond Fixed Training Durations" (2024), for 1 − √s.

    Examples:
        >>> import torch
        >>> from cnnexp.optim import wsd
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = wsd(optimizer, total_steps=6, warmup=0.34, decay=0.5)
        >>> rates = []
        >>> for _ in range(6):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.5, 1.0, 1.0, 1.0, 0.293, 0.0]
    """
    _fractions(warmup=warmup, decay=decay, min_factor=min_factor)
    if warmup + decay > 1:
        raise ValueError(f"scheduler.warmup={warmup} and decay={decay} are more than the training")
    length = round(decay * total_steps)

    def fall(t: int, steps: int) -> float:
        begin = steps - length
        return 1 - (1 - min_factor) * math.sqrt(_share(max(t - begin, 0), length))

    return _after_warmup(optimizer, total_steps, warmup, fall)


def step(
    optimizer: Optimizer, total_steps: int, every: float = 0.3, gamma: float = 0.1
) -> LRScheduler:
    """A factor that is multiplied by ``gamma`` after every ``every``·T steps.

    Raises:
        ValueError: ``every`` or ``gamma`` is not in (0, 1].

    Examples:
        >>> import torch
        >>> from cnnexp.optim import step
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = step(optimizer, total_steps=4, every=0.5)
        >>> rates = []
        >>> for _ in range(4):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [1.0, 1.0, 0.1, 0.1]
    """
    _fractions(every=every, gamma=gamma)
    if every == 0 or gamma == 0:
        raise ValueError(f"scheduler.every={every}, gamma={gamma}: must be above 0")
    length = max(1, round(every * total_steps))
    return LambdaLR(optimizer, lambda t: gamma ** (t // length))


def multistep(
    optimizer: Optimizer,
    total_steps: int,
    milestones: Sequence[float] = (0.5, 0.75),
    gamma: float = 0.1,
) -> LRScheduler:
    """A factor that is multiplied by ``gamma`` at each of ``milestones``, which are fractions of T.

    Raises:
        ValueError: A milestone is not in [0, 1], they do not increase, or ``gamma`` is not in [0, 1].

    Examples:
        >>> import torch
        >>> from cnnexp.optim import multistep
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = multistep(optimizer, total_steps=4)
        >>> rates = []
        >>> for _ in range(4):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [1.0, 1.0, 0.1, 0.01]
    """
    _fractions(gamma=gamma, **{f"milestones[{i}]": m for i, m in enumerate(milestones)})
    if list(milestones) != sorted(set(milestones)):
        raise ValueError(f"scheduler.milestones={list(milestones)}: must rise")
    steps = [round(m * total_steps) for m in milestones]
    return LambdaLR(optimizer, lambda t: gamma ** sum(t >= s for s in steps))


def onecycle(
    optimizer: Optimizer,
    total_steps: int,
    warmup: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    cycle_momentum: bool = False,
) -> OneCycleLR:
    """A rise from lr/``div_factor`` to the optimiser's learning rate, then a fall to almost 0.

    Both ways are half a cosine; the end is lr/(``div_factor``·``final_div_factor``).

    Args:
        optimizer: The optimiser; its learning rates are the peaks.
        total_steps: Optimiser steps of the whole training, ≥ 1.
        warmup: The share of the training on the way up, in (0, 1).
        div_factor, final_div_factor: Divisors of the learning rate, ≥ 1.
        cycle_momentum: Whether to set the optimiser's momentum: 0.95, down to 0.85 at the peak, up to
            0.95.

    Raises:
        ValueError: A range is violated.

    Source: Smith & Topin, "Super-Convergence" (2018).

    Examples:
        >>> import torch
        >>> from cnnexp.optim import onecycle
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = onecycle(optimizer, total_steps=4, warmup=0.5)
        >>> rates = []
        >>> for _ in range(4):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.04, 1.0, 0.5, 0.0]
    """
    _fractions(warmup=warmup)
    if min(div_factor, final_div_factor) < 1:
        raise ValueError(
            f"scheduler.div_factor={div_factor}, final_div_factor={final_div_factor}: "
            f"must be at least 1"
        )
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=max(total_steps, 1),
        pct_start=warmup,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=cycle_momentum,
    )


def plateau(
    optimizer: Optimizer,
    total_steps: int,  # noqa: ARG001 - every schedule is called with it
    mode: str = "max",
    factor: float = 0.3,
    patience: int = 2,
    threshold: float = 1e-3,
) -> ReduceLROnPlateau:
    """Multiply the learning rate by ``factor`` if the metric has not improved for ``patience`` epochs.

    The metric, which ``checkpoint.monitor`` names, is looked at after each validation.

    Args:
        optimizer: The optimiser; the schedule starts at its learning rates.
        total_steps: Not used.
        mode: Whether the greatest (``"max"``) or the least (``"min"``) metric is the best.
        factor: The factor, in (0, 1).
        patience: Epochs without a better metric that are tolerated, ≥ 0.
        threshold: The least absolute difference that counts as better, ≥ 0.

    Raises:
        ValueError: A range is violated.

    Examples:
        >>> import torch
        >>> from cnnexp.optim import plateau
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = plateau(optimizer, total_steps=0, patience=0)
        >>> for accuracy in (0.5, 0.6, 0.6):
        ...     schedule.step(accuracy)
        >>> optimizer.param_groups[0]["lr"]
        0.3
    """
    _fractions(factor=factor)
    _at_least_zero(patience=patience, threshold=threshold)
    arguments = {"factor": factor, "patience": patience, "threshold": threshold}
    return ReduceLROnPlateau(optimizer, mode, threshold_mode="abs", **arguments)  # pyright: ignore[reportArgumentType]


def _after_warmup(
    optimizer: Optimizer, total_steps: int, warmup: float, factor: Callable[[int, int], float]
) -> LRScheduler:
    """A linear rise over ``warmup``·T steps, then ``factor`` of the step and of the steps that are left."""
    _fractions(warmup=warmup)
    if warmup == 1:
        raise ValueError("scheduler.warmup=1.0: must be below 1")
    rise = round(warmup * total_steps)
    return LambdaLR(
        optimizer, lambda t: (t + 1) / rise if t < rise else factor(t - rise, total_steps - rise)
    )


def _share(step: int, steps: int) -> float:
    """The share of ``steps`` steps that is done at ``step``: 0 at the first, 1 at the last."""
    return min(1.0, step / max(steps - 1, 1))


def _fractions(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"scheduler.{name}={value}: must be between 0 and 1")


def _at_least_zero(**values: float) -> None:
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"scheduler.{name}={value}: must be at least 0")
