"""Time training steps (forward, loss, backward, optimiser) with each of our backwards and with torch's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cnnexp.nn import CrossEntropyLoss, replace_layers
from cnnexp.ops import AUTO, NATIVE, resolve_algorithm
from cnnexp.ops.layout import in_layout
from cnnexp.optim import Adam
from cnnexp.speed.networks import network_named
from cnnexp.speed.result import Measured, not_measured, paired, spread
from cnnexp.training.lightning_internals import forget_nvml
from cnnexp.tuning import choose_algorithms, multiplies_bfloat16, pin_algorithms
from cnnexp.tuning.memory import peak_bytes, saved_bytes
from cnnexp.tuning.timing import interleaved_times

FUSED = "fused"
BFLOAT16 = "torch bfloat16"  # channels_last
BFLOAT16_NCHW = "torch bfloat16 NCHW"
LAST = "torch channels_last"
COMPILE = "torch.compile"  # channels_last
COMPILE_BFLOAT16 = "torch.compile bfloat16"
BASELINES = ("torch NCHW", LAST, COMPILE, BFLOAT16, COMPILE_BFLOAT16)
# whether in bfloat16, torch's way by torch.compile, and ours
_COMPILED = (
    (False, COMPILE, "cnnexp compile, auto"),
    (True, COMPILE_BFLOAT16, "cnnexp compile, auto, bfloat16"),
)
_Ways = dict[str, "_Way"]


@dataclass
class _Way:
    network: nn.Module
    loss: nn.Module
    images: Tensor
    labels: Tensor
    bfloat16: bool = False
    compiled: bool = False
    adam: type[torch.optim.Adam] = torch.optim.Adam

    def __post_init__(self) -> None:
        self.optimizer = self.adam(self.network.parameters(), 1e-3, fused=True)

    def forward(self) -> Tensor:
        with _precision(self.images, self.bfloat16):
            return self.loss(self.network(self.images), self.labels)

    def step(self) -> None:
        self.forward().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()  # of ways that wait, gradients would take up as much memory as weights


def _precision(images: Tensor, bfloat16: bool) -> AbstractContextManager[object]:
    return torch.autocast(images.device.type, torch.bfloat16) if bfloat16 else nullcontext()


@dataclass(frozen=True)
class _Beginning:
    """The weights and the batch from which all ways start."""

    network: nn.Module
    images: Tensor
    labels: Tensor
    functions: bool = False  # whether the network's own code calls activations and poolings
    mixed: bool = False  # whether there are ways in bfloat16, too

    def way(
        self,
        loss: nn.Module,
        layout: torch.memory_format = torch.channels_last,
        change: Callable[[nn.Module, Tensor], nn.Module] = lambda network, _: network,
        bfloat16: bool = False,
        compiled: bool = False,
        adam: type[torch.optim.Adam] = torch.optim.Adam,
    ) -> _Way:
        own = copy.deepcopy(self.network).to(self.images.device, self.images.dtype)
        own = own.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        batch = in_layout(self.images, layout)
        return _Way(change(own, batch), loss, batch, self.labels, bfloat16, compiled, adam)

    def ways_of_torch(self) -> _Ways:
        return {
            "torch NCHW": self.way(nn.CrossEntropyLoss(), torch.contiguous_format),
            LAST: self.way(nn.CrossEntropyLoss()),
        }

    def compiled_ways(self, auto: bool) -> dict[str, Callable[[], _Way]]:
        """What makes the ways by ``torch.compile``, where ``auto`` ours as well."""
        made: dict[str, Callable[[], _Way]] = {}
        for bfloat16, theirs, ours in _COMPILED:
            if bfloat16 and not self.mixed:
                continue
            options: dict[str, Any] = {"bfloat16": bfloat16, "compiled": True}
            made[theirs] = partial(self.way, nn.CrossEntropyLoss(), change=_compiled, **options)
            if auto:
                made[ours] = partial(self.ours, AUTO, **options)
        return made

    def ways_with(self, algorithms: Sequence[str], recompute: bool) -> _Ways:
        """The way of each of ``algorithms``, and the ways in bfloat16 before and after them."""
        ways = self._bfloat16_of_torch() if self.mixed else {}
        ways |= {f"cnnexp {name}": self.ours(name) for name in algorithms}
        for name in (FUSED, AUTO):
            if recompute and name in algorithms:
                ways[f"cnnexp recompute, {name}"] = self.ours(name, recompute=True)
        if self.mixed and AUTO in algorithms:
            ways["cnnexp auto, bfloat16"] = self.ours(AUTO, bfloat16=True)
            if recompute:
                again = self.ours(AUTO, bfloat16=True, recompute=True)
                ways["cnnexp recompute, auto, bfloat16"] = again
        return ways

    def _bfloat16_of_torch(self) -> _Ways:
        layouts = {BFLOAT16: torch.channels_last, BFLOAT16_NCHW: torch.contiguous_format}
        return {
            name: self.way(nn.CrossEntropyLoss(), layout, bfloat16=True)
            for name, layout in layouts.items()
        }

    def ours(
        self,
        algorithm: str,
        bfloat16: bool = False,
        recompute: bool = False,
        compiled: bool = False,
    ) -> _Way:
        name = NATIVE if algorithm == AUTO else resolve_algorithm("cross_entropy", algorithm)
        replaced = _changed(algorithm, bfloat16, recompute, self.functions)

        def change(network: nn.Module, batch: Tensor) -> nn.Module:
            network = replaced(network, batch)
            return _compiled(network, batch) if compiled else network

        loss = CrossEntropyLoss(algorithm=name)
        return self.way(loss, change=change, bfloat16=bfloat16, compiled=compiled, adam=Adam)


def bench_step(
    model: str,
    batch_size: int,
    algorithms: Sequence[str],
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    size: int | None = None,
    rounds: int = 40,
    with_compile: bool = True,
    with_recompute: bool = False,
) -> list[Measured]:
    """Time steps of ``model`` on random images: torch's ways first, then each of ``algorithms``.

    All start from the same weights and take turns, so that a disturbance of the machine affects all.
    ``torch.compile`` gets the channels_last network; if ``auto`` is among ``algorithms``, that of ``auto``,
    too. With float32 on a device that multiplies in bfloat16 there are more ways: torch in bfloat16 by
    autocast, in both layouts and by ``torch.compile``; and ``auto`` in the same, channels_last. On other
    devices these take several times as long, so nobody would choose them.

    Args:
        model: A name that ``known_networks`` gives.
        batch_size: Images per step, ≥ 1.
        algorithms: Our algorithms; ``auto`` is one.
        device: The device to compute on.
        dtype: The dtype of weights and images.
        size: Height and width of the images; None for the model's own.
        rounds: How often each way is timed.
        with_compile: Whether the ways by ``torch.compile`` are measured as well.
        with_recompute: Whether ``fused`` and ``auto``, where they are among ``algorithms``, are measured
            with ``recompute`` (see ``cnnexp.nn.replace_layers``) as well, ``auto`` in both precisions.

    Raises:
        ValueError: The network does not take such a batch.
    """
    torch.manual_seed(0)
    known = network_named(model)
    size = size or known.size
    begin = _Beginning(
        known.make(size),
        torch.rand(batch_size, known.channels, size, size, device=device, dtype=dtype),
        torch.randint(10, (batch_size,), device=device),
        known.functions,
        dtype == torch.float32 and multiplies_bfloat16(device),
    )
    _see_that_it_runs(begin, model)
    kind = str(dtype).removeprefix("torch.")
    images_are = "" if size == known.size else f", {size}×{size}"
    what = f"step {model}{images_are}, batch {batch_size}, {kind}"
    ways = begin.ways_of_torch()
    compiled = begin.compiled_ways(AUTO in algorithms) if with_compile else {}
    try:
        missing = _made(what, compiled, ways)
        ways |= begin.ways_with(algorithms, with_recompute)
        return _timed(what, ways, device, rounds) + missing
    finally:
        if compiled:  # torch keeps each graph, and only so many of one forward
            torch.compiler.reset()


def _made(what: str, compiled: Mapping[str, Callable[[], _Way]], ways: _Ways) -> list[Measured]:
    """Add what is ``compiled`` to ``ways``; rows of those that cannot be."""
    missing = []
    for name, make in compiled.items():
        try:
            way = make()
            way.step()
            ways[name] = way
        except Exception as error:  # no compiler on this machine
            missing.append(not_measured(what, name, error))
    return missing


def bench_network(
    what: str,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    algorithms: Sequence[str],
    *,
    device: torch.device,
    rounds: int = 40,
) -> list[Measured]:
    """Time steps of ``network``: torch in channels_last first, then each of ``algorithms``, in turns.

    Args:
        what: What the rows call it.
        network: Any network; it is copied for each way.
        images: (N, C, H, W), on ``device``.
        labels: (N,) int64, on ``device``.
        algorithms: Our algorithms; ``auto`` is one.
        device: The device to compute on.
        rounds: How often each way is timed.
    """
    begin = _Beginning(network, images, labels)
    ways = {LAST: begin.way(nn.CrossEntropyLoss())}
    ways |= {f"cnnexp {name}": begin.ours(name) for name in algorithms}
    return _timed(what, ways, device, rounds)


def _timed(
    what: str, ways: Mapping[str, _Way], device: torch.device, rounds: int
) -> list[Measured]:
    """A row for each of ``ways``, which take turns."""
    forget_nvml()  # plain programs, which torch's ways stand for, do without
    times = interleaved_times(
        {name: each.step for name, each in ways.items()}, device, rounds=rounds, warm_up=3
    )
    rows = []
    for name, each in ways.items():
        middle, low, high = spread(times[name])
        ratios = {other: middle / spread(times[other])[0] for other in BASELINES if other in ways}
        saved = saved_bytes(each.forward, each.network.parameters()) / 1e6
        row = Measured(what, name, {"full": middle}, low, high, rounds, saved, ratios)
        row.peak_megabytes = _peak(each, device)
        row.beside = _beside(name, each)
        if row.beside in ways:
            pairs = zip(times[name], times[row.beside], strict=True)
            row.paired = paired([ours / theirs for ours, theirs in pairs])
        rows.append(row)
    return rows


def _peak(way: _Way, device: torch.device) -> float | None:
    way.optimizer.zero_grad()
    peak = peak_bytes(way.step, device)
    return None if peak is None else peak / 1e6


def _beside(name: str, way: _Way) -> str:
    """Torch's way with the precision and the layout of ours, compiled if ours is; of torch's own none."""
    if name.startswith("torch"):
        return ""
    if way.compiled:
        return COMPILE_BFLOAT16 if way.bfloat16 else COMPILE
    return BFLOAT16 if way.bfloat16 else LAST


def _see_that_it_runs(begin: _Beginning, model: str) -> None:
    try:
        begin.ways_of_torch()["torch NCHW"].forward()
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        n, channels, *size = begin.images.shape
        raise ValueError(
            f"{model} does not train on {n} images of {channels}×{size[0]}×{size[1]}: {error}"
        ) from error


def _compiled(network: nn.Module, _batch: Tensor) -> nn.Module:
    return torch.compile(network)  # pyright: ignore[reportReturnType]


def _changed(
    algorithm: str, bfloat16: bool, recompute: bool, functions: bool
) -> Callable[[nn.Module, Tensor], nn.Module]:
    def change(network: nn.Module, batch: Tensor) -> nn.Module:
        def run(network: nn.Module, batch: Tensor) -> Tensor:
            with _precision(batch, bfloat16):
                return network(batch)

        calls = functions and algorithm in ("fused", AUTO)
        replace_layers(network, algorithm, recompute=recompute, functions=calls)
        if algorithm == AUTO:
            pin_algorithms(network, choose_algorithms(network, batch, run))
        return network

    return change
