"""How the cost of a training step grows with batch, width, depth, image size and threads."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cnnexp.kernels.threads import offered_threads, with_threads
from cnnexp.models import SeedCNN
from cnnexp.speed.scaled import Scaled, scaled
from cnnexp.speed.step import LAST, bench_network
from cnnexp.tuning.memory import free_bytes

__all__ = ["STEP_AXES", "bench_axis", "needed_bytes"]

_BLOCKS = (1, 2, 4, 8)  # channels of the article's blocks, by those of the first
_LEAST_ROUNDS = 3
_PATIENCE = 6  # a value is left out if its least rounds take this many times the limit
# What a step holds besides the outputs of its layers: their gradients, and what the layers keep.
_HELD_BY_OUTPUTS, _HELD_BY_WEIGHTS = 3, 5


def _article(width: int = 32, size: int = 28) -> nn.Module:
    return SeedCNN(image_size=(size, size), channels=[width * each for each in _BLOCKS])


def _deep(depth: int) -> nn.Module:
    """Convolutions of 32 channels with ReLU, without pooling, so that each but the first costs the same."""
    return SeedCNN(channels=(32,) * depth, pool_size=1)


class _Axis(NamedTuple):
    """What grows.

    Attributes:
        values: Where it is measured if nobody says otherwise.
        least: The smallest value that it may have.
        network: The network at a value.
        named: What is computed at a value, with a batch.
        sized: (images in a batch, height and width of each) at a value, with a batch.
    """

    values: tuple[int, ...]
    least: int
    network: Callable[[int], nn.Module]
    named: str
    sized: Callable[[int, int], tuple[int, int]] = lambda _value, batch: (batch, 28)


def _threads() -> tuple[int, ...]:
    """1, 2, 4 … and all that the machine offers."""
    most = os.cpu_count() or 1
    powers = [2**k for k in range(most.bit_length()) if 2**k < most]
    return (*powers, most)


STEP_AXES: Mapping[str, _Axis] = {
    "batch": _Axis(
        (1, 8, 32, 128, 512, 2048),
        1,
        lambda _: _article(),
        "seed_cnn, batch {value}",
        lambda value, _: (value, 28),
    ),
    "width": _Axis(
        (8, 16, 32, 64, 128),
        1,
        lambda value: _article(value),
        "seed_cnn, {value} to {most} channels, batch {batch}",
    ),
    "depth": _Axis((1, 2, 4, 8, 16), 1, _deep, "{value} convolutions of 32 channels, batch {batch}"),
    "size": _Axis(
        (28, 56, 112, 224),
        16,
        lambda value: _article(size=value),
        "seed_cnn, {value}×{value}, batch {batch}",
        lambda value, batch: (batch, value),
    ),
    "threads": _Axis(
        _threads(), 1, lambda _: _article(), "seed_cnn, batch {batch}, threads {value}"
    ),
}  # fmt: skip


def bench_axis(
    axis: str,
    values: Sequence[int],
    algorithms: Sequence[str],
    *,
    batch_size: int = 16,
    device: torch.device,
    rounds: int = 15,
    limit: float = 10.0,
) -> Iterator[Scaled]:
    """Time training steps at each value of ``axis``: torch in channels_last, and each of ``algorithms``.

    The ways of a value start from the same weights and take turns in this process. A value whose steps would
    not fit into memory, or into six times ``limit``, or that asks for more threads than there are, gives
    one row that says so.

    Args:
        axis: A key of ``STEP_AXES``.
        values: Where to measure, in the order in which the rows come.
        algorithms: Our algorithms; ``auto`` is one.
        batch_size: Images a step, ≥ 1, unless the axis is the batch.
        device: The device to compute on.
        rounds: How often each way is timed; less often, but three times at least, where that would take
            longer than ``limit``.
        limit: Seconds that the rounds of one value may take.
    """
    for value in values:
        yield from _at(axis, value, algorithms, batch_size, device, rounds, limit)


def _at(
    axis: str,
    value: int,
    algorithms: Sequence[str],
    batch_size: int,
    device: torch.device,
    rounds: int,
    limit: float,
) -> list[Scaled]:
    known = STEP_AXES[axis]
    count, size = known.sized(value, batch_size)
    what = known.named.format(value=value, batch=count, most=value * _BLOCKS[-1])
    refused = partial(_left_out, axis, value, what)
    most = offered_threads() if device.type == "cpu" else 1
    if axis == "threads" and value > most:
        return [refused(f"{most} is what can be used here")]
    torch.manual_seed(0)
    network = known.network(value)
    needed = needed_bytes(network, (count, 1, size, size), 1 + len(algorithms))
    free = free_bytes() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    if free is not None and needed > free:
        return [refused(f"needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free")]
    images = torch.rand(count, 1, size, size, device=device)
    labels = torch.randint(10, (count,), device=device)
    with with_threads(value) if axis == "threads" else nullcontext():
        once = 2 * (1 + len(algorithms)) * _seconds_of_one(network, images, labels)
        if _LEAST_ROUNDS * once > _PATIENCE * limit:
            least = f"{_LEAST_ROUNDS} rounds would take about {_LEAST_ROUNDS * once:.0f} s"
            return [refused(f"{least}, more than {_PATIENCE} times --limit {limit:g}")]
        fitting = max(min(rounds, _LEAST_ROUNDS), min(rounds, int(limit / once)))
        rows = bench_network(
            what, network, images, labels, algorithms, device=device, rounds=fitting
        )
    return [scaled(row, axis, value, count) for row in rows]


def _left_out(axis: str, value: int, what: str, why: str) -> Scaled:
    return Scaled(what, LAST, note=f"left out: {why}", axis=axis, value=value)


def needed_bytes(network: nn.Module, shape: tuple[int, ...], ways: int) -> int:
    """About how many bytes steps of ``network`` on images of ``shape`` need, each of ``ways`` with its own
    weights and optimiser; found on torch's meta device, which computes nothing.
    """
    outputs: list[int] = []
    like = copy.deepcopy(network).to("meta")
    for layer in like.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _layer, _given, made: outputs.append(made.nbytes))
    like(torch.empty(shape, device="meta"))
    weights = sum(each.nbytes for each in network.parameters())
    return _HELD_BY_OUTPUTS * sum(outputs) + _HELD_BY_WEIGHTS * ways * weights


def _seconds_of_one(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The seconds of torch's forward and backward, once they have been warmed up if they are short."""
    own = copy.deepcopy(network).to(images.device)

    def step() -> float:
        start = time.perf_counter()
        nn.functional.cross_entropy(own(images), labels).backward()
        if images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    first = step()
    return first if first > 1 else step()
