"""Training steps of the article's network: torch's ways and ours, with and without CUDA graphs.

Every way starts from the same weights and makes the same first five steps, whose loss must be that of
torch in float32; then the ways take turns. A time is that of a step among ten in a row, so that the
processor may run ahead of the GPU as in a training.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cnnexp.models import SeedCNN
from cnnexp.nn import CrossEntropyLoss, replace_layers
from cnnexp.tuning import choose_algorithms, pin_algorithms
from gpu_parts.rows import NeedsCudaError, Rows

__all__ = ["run", "run_compiled"]

PRECISIONS = ("float32", "TF32", "bfloat16")
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
BACKWARDS = ("torch", "fused", "direct", "auto")
_FIRST = 5  # steps that all ways make before they are timed
_IN_A_ROW = 10
_ROUNDS = 8


class Way:
    """One way to train, from the same weights as the others.

    Args:
        network: Copied.
        images, labels: The batch of every step.
        backward: ``torch``, or an algorithm of ours.
        precision: ``float32``, ``TF32``, or ``bfloat16`` by autocast.
        layout: A key of ``LAYOUTS``.
        graph: Replay a CUDA graph of the step.
        compiled: By ``torch.compile``.
    """

    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        backward: str,
        precision: str,
        layout: str,
        graph: bool,
        compiled: bool = False,
    ) -> None:
        self.precision, self.graph, self.labels = precision, graph, labels
        self.name = " ".join(
            (backward, precision, layout, *["compile"] * compiled, *["CUDA graph"] * graph)
        )
        on_gpu = images.is_cuda
        self._network = copy.deepcopy(network).to(images.device)
        self._network.to(memory_format=LAYOUTS[layout])  # pyright: ignore[reportCallIssue]
        self._images = images.contiguous(memory_format=LAYOUTS[layout])
        self._loss: nn.Module = nn.CrossEntropyLoss()
        if backward != "torch":
            replace_layers(self._network, backward)
            self._loss = CrossEntropyLoss(algorithm="direct")
        if backward == "auto":
            with self.numbers():
                pin_algorithms(self._network, choose_algorithms(self._network, self._images))
        parameters = self._network.parameters()
        self._optimizer = torch.optim.Adam(parameters, 1e-3, fused=on_gpu, capturable=graph)
        self._run: Callable[[Tensor], Tensor] = self._network
        if compiled:
            self._run = torch.compile(self._network, dynamic=False)
        self.loss = images.new_zeros(())

    @contextmanager
    def numbers(self) -> Iterator[None]:
        """Within it products are computed in this way's precision."""
        tf32 = self.precision == "TF32"
        torch.backends.cudnn.allow_tf32 = tf32
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        low = torch.autocast(self._images.device.type, torch.bfloat16)
        with low if self.precision == "bfloat16" else nullcontext():
            yield

    def _forward(self) -> Tensor:
        with self.numbers():
            return self._loss(self._run(self._images), self.labels)

    def _step(self) -> None:
        self._optimizer.zero_grad()
        loss = self._forward()
        loss.backward()
        self._optimizer.step()
        self.loss = loss.detach()

    def begin(self) -> None:
        """Make the first steps, and the graph after the third."""
        if not self.graph:
            for _ in range(_FIRST):
                self._step()
            self.step = self._step
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        self._optimizer.zero_grad()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            self._step()
        self.step = captured.replay
        for _ in range(_FIRST - 3):
            captured.replay()


def _batch(rows: Rows, size: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    network = SeedCNN() if rows.on_gpu else SeedCNN(channels=[4, 8])
    images, labels = torch.rand(size, 1, 28, 28), torch.randint(10, (size,))
    return network, images.to(rows.device), labels.to(rows.device)


def run(rows: Rows) -> None:
    """Every way at both batch sizes."""
    torch.backends.cudnn.benchmark = True
    for size in (128, 1024) if rows.on_gpu else (4,):
        given = _batch(rows, size)
        made: list[Way] = []
        truth: float | None = None
        graphs = (False, True)
        for choice in itertools.product(graphs, PRECISIONS, BACKWARDS, LAYOUTS):
            graph, precision, backward, layout = choice
            if not rows.on_gpu and (precision, layout) != ("float32", "channels_last"):
                continue
            way = _try(rows, given, truth, backward, precision, layout, graph)
            if way is not None:
                truth = float(way.loss) if truth is None else truth
                made.append(way)
        _time(rows, size, made)
        del made


def run_compiled(rows: Rows) -> None:
    """The same with torch.compile, which takes its time."""
    torch.backends.cudnn.benchmark = True
    for size in (128, 1024) if rows.on_gpu else (4,):
        given = _batch(rows, size)
        plain = _try(rows, given, None, "torch", "float32", "channels_last", graph=False)
        truth = float(plain.loss) if plain is not None else None
        for precision in reversed(PRECISIONS):
            made = [] if plain is None else [plain]
            torch.compiler.reset()  # each network that was compiled counts towards a limit
            for graph, backward in itertools.product((False, True), ("torch", "fused")):
                kind = backward, precision, "channels_last", graph
                way = _try(rows, given, truth, *kind, compiled=True)
                made += [] if way is None else [way]
            if len(made) > 1:
                _time(rows, size, made)


def _try(
    rows: Rows,
    given: tuple[nn.Module, Tensor, Tensor],
    truth: float | None,
    backward: str,
    precision: str,
    layout: str,
    graph: bool,
    compiled: bool = False,
) -> Way | None:
    """The way after its first steps; None if it fails, which a row says."""
    name = " ".join((backward, precision, layout, *["compile"] * compiled, *["CUDA graph"] * graph))
    with rows.trying(f"first {_FIRST} steps, batch {len(given[1])}", name) as row:
        if not rows.on_gpu and (graph or compiled):
            raise NeedsCudaError("CUDA graphs" if graph else "to compile for it")
        held = torch.cuda.memory_allocated() if rows.on_gpu else 0
        way = Way(*given, backward, precision, layout, graph, compiled)
        if rows.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        way.begin()
        loss = float(way.loss)
        if rows.on_gpu:
            row["peak_mb"] = (torch.cuda.max_memory_allocated() - held) / 1e6
        row |= {"value": loss, "unit": "loss"}
        if truth is not None:
            row["ratio"] = loss / truth
            if not abs(loss / truth - 1) < (0.1 if precision == "bfloat16" else 0.02):
                row |= {"state": "failed", "note": f"torch in float32 comes to {truth:.4f}"}
        return way
    return None


def _time(rows: Rows, size: int, ways: list[Way]) -> None:
    """Rows with the milliseconds of each way's step, and the ratio to the best of torch's so far."""
    device = rows.device
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    with rows.trying(f"steps, batch {size}", "all ways, in turn"):
        for _ in range(_ROUNDS if rows.on_gpu else 1):
            for way in ways:
                times[way.name].append(_seconds(way, device, _IN_A_ROW if rows.on_gpu else 1))
    ms = {name: 1e3 * statistics.median(each) for name, each in times.items() if each}
    torchs = {name: each for name, each in ms.items() if name.startswith("torch")}
    for way in ways:
        if way.name not in ms:
            continue
        # torch in the same numbers, replayed or not as here; its faster layout
        peers = [t for n, t in torchs.items() if way.precision in n and ("graph" in n) == way.graph]
        best = min(peers, default=min(torchs.values(), default=float("nan")))
        rows.add(f"step, batch {size}", way.name, value=ms[way.name], unit="ms",
                 ratio=ms[way.name] / best)  # fmt: skip
    if torchs and len(torchs) < len(ms):
        best, whose = min((t, n) for n, t in ms.items() if n not in torchs)
        least, theirs = min((t, n) for n, t in torchs.items())
        rows.add(f"step, batch {size}", f"best of ours: {whose}", value=best, unit="ms",
                 ratio=best / least, note=f"torch's best: {theirs}, {least:.4g} ms")  # fmt: skip


def _seconds(way: Any, device: torch.device, count: int) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    way.step()
    wait()
    start = time.perf_counter()
    for _ in range(count):
        way.step()
    wait()
    return (time.perf_counter() - start) / count
