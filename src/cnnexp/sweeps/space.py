"""Search spaces, written as overrides: ``lr=tag(log,interval(1e-4,1e-1))``, ``a,b``, ``range(…)``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
    Transformer,
)
from hydra.errors import OverrideParseException

from cnnexp.config.errors import ConfigError

if TYPE_CHECKING:
    import optuna

_DECADES = 100  # the ratio of an interval's ends from which on a linear search is hardly meant


def parse(params: Mapping[str, object], where: str) -> list[Override]:
    """The overrides of the search space ``params`` (override by key); messages name it by ``where``.

    Raises:
        ConfigError: An override cannot be read, or leaves nothing to search.
    """
    overrides = []
    for key, value in params.items():
        try:
            (override,) = OverridesParser.create().parse_overrides([f"{key}={value}"])
        except OverrideParseException as error:
            raise ConfigError(f"{where}.{key}={value}: cannot be read: {error}") from error
        _check(override, f"{where}.")
        overrides.append(override)
    return overrides


def _check(override: Override, where: str = "") -> None:
    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        least = 0 if "log" in value.tags else -math.inf
        if not least < value.start <= value.end:
            raise ConfigError(
                f"{where}{override.input_line}: the interval must go from a number to a greater one"
                f"{', both above 0' if least == 0 else ''}"
            )
    elif not isinstance(value, (ChoiceSweep, RangeSweep)):
        raise ConfigError(
            f"{where}{override.input_line}: leaves nothing to search; write listed values (a,b), or "
            f"interval(a,b), tag(log,interval(a,b)), int(interval(a,b))"
        )


def search_space(overrides: Sequence[Override]) -> dict[str, optuna.distributions.BaseDistribution]:
    """The space as Optuna's distributions, by key.

    Raises:
        ConfigError: An override cannot be searched.
    """
    import optuna

    space: dict[str, optuna.distributions.BaseDistribution] = {}
    for override in overrides:
        _check(override)
        value = override.value()
        key = override.get_key_element()
        if isinstance(value, IntervalSweep):
            kind = (
                optuna.distributions.IntDistribution
                if _is_whole(value)
                else optuna.distributions.FloatDistribution
            )
            space[key] = kind(value.start, value.end, log="log" in value.tags)  # pyright: ignore[reportArgumentType]
        else:
            space[key] = optuna.distributions.CategoricalDistribution(_choices(override))
    return space


def linear_over_decades(space: Sequence[Override]) -> list[str]:
    """A line for each interval that spans two decades or more and is not searched by the logarithm."""
    lines = []
    for override in space:
        value = override.value()
        if not isinstance(value, IntervalSweep) or "log" in value.tags or _is_whole(value):
            continue
        low, high = float(value.start or 0), float(value.end or 0)
        if low > 0 and high >= _DECADES * low:
            key, interval = override.get_key_element(), f"interval({value.start:g},{value.end:g})"
            lines.append(
                f"{key}={interval} is searched linearly: nine of ten trials lie between {high / 10:g} and "
                f"{high:g}; for all decades alike, {key}=tag(log,{interval})"
            )
    return lines


def draw(space: Sequence[Override], count: int, seed: Sequence[int]) -> list[dict[str, Any]]:
    """Draw ``count`` points of ``space``, spread evenly: a scrambled Sobol' sequence (Owen, 1998).

    The first points stay the same when ``count`` grows. Numbers are rounded to four digits.

    Args:
        space: The search space.
        count: The number of points.
        seed: The seed of the scrambling.

    Returns:
        For each point the values by key; {} where the space is empty.
    """
    if not space:
        return [{} for _ in range(count)]
    import numpy as np
    from scipy.stats import qmc

    sobol = qmc.Sobol(len(space), scramble=True, seed=np.random.default_rng(list(seed)))  # pyright: ignore[reportCallIssue]
    points = sobol.random_base2(max(count - 1, 0).bit_length())[:count]
    return [
        {o.get_key_element(): _value(o, float(u)) for o, u in zip(space, point, strict=True)}
        for point in points
    ]


def _value(override: Override, u: float) -> Any:
    """The value at the share ``u``, in [0, 1), of the range or list of ``override``."""
    value = override.value()
    if not isinstance(value, IntervalSweep):
        choices = _choices(override)
        return choices[int(u * len(choices))]
    assert value.start is not None
    assert value.end is not None
    low, high = value.start, value.end + (1 if _is_whole(value) else 0)
    found = low * (high / low) ** u if "log" in value.tags else low + u * (high - low)
    return min(int(found), int(value.end)) if _is_whole(value) else float(f"{found:.4g}")


def _choices(override: Override) -> list[Any]:
    return list(override.sweep_iterator(transformer=Transformer.encode))


def _is_whole(value: IntervalSweep) -> bool:
    return isinstance(value.start, int) and isinstance(value.end, int)
