"""Every layer, by every algorithm, where somebody computes it twice or keeps its tensors elsewhere."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import cnnexp.nn
from cnnexp import ops
from cnnexp.tuning import auto, measure
from tests.nn.test_layers import PAIRS

BLOCK = ("ConvReLUPool", (2, 4, 3), {"padding": 1})
# one of each class; of batch normalisation all
LAYERS = [
    *{p[0] if p[0] != "BatchNorm2d" else str(p): p for p in reversed([*PAIRS, BLOCK])}.values()
]
BARE = ("not reentrant", "unpacked once")  # habits in which a layer also stands alone
Run = Callable[[nn.Module, Tensor], Tensor]


def fake_times() -> Callable[..., dict[str, list[float]]]:
    """A clock that favours another algorithm at each measurement."""
    looks = itertools.count()

    def times(ways: dict[str, Callable[[], object]], *_: Any, **__: Any) -> dict[str, list[float]]:
        favourite = sorted(ways)[next(looks) // 2 % len(ways)]  # two looks are one measurement
        return {name: [1.0 if name == favourite else 2.0] for name in ways}

    return times


@pytest.fixture(autouse=True)
def _measured_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is remembered between habits, and what is decided twice is decided differently."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(measure, "interleaved_times", fake_times())
    auto.forget()
    yield
    auto.forget()


def _keep_products(context: Any, operation: Any, *arguments: Any, **options: Any) -> Any:
    kept = operation in (torch.ops.aten.convolution.default, torch.ops.aten.addmm.default)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def _nested(network: nn.Module, image: Tensor) -> Tensor:
    def inner(x: Tensor) -> Tensor:
        return checkpoint(network, x, use_reentrant=False)

    return checkpoint(inner, image, use_reentrant=False)


def _with_hooks(hooks: Callable[[], Any]) -> Run:
    def run(network: nn.Module, image: Tensor) -> Tensor:
        with hooks():
            return network(image)

    return run


def _looked_at_first(look: Callable[[], Any]) -> Run:
    def run(network: nn.Module, image: Tensor) -> Tensor:
        state = copy.deepcopy(network.state_dict())
        with look():
            network(image)
        network.load_state_dict(state)  # statistics as if nobody had looked
        torch.manual_seed(1)
        return checkpoint(network, image, use_reentrant=False)

    return run


def _once() -> saved_tensors_hooks:
    """As strict as a checkpoint: what is packed is unpacked once."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> int:
        kept[len(kept)] = tensor.detach()
        return len(kept) - 1

    return saved_tensors_hooks(pack, kept.pop)


HABITS: dict[str, Run] = {
    "reentrant": partial(checkpoint, use_reentrant=True),
    "reentrant, own random numbers": partial(
        checkpoint, use_reentrant=True, preserve_rng_state=False
    ),
    "not reentrant": partial(checkpoint, use_reentrant=False),
    "own random numbers": partial(checkpoint, use_reentrant=False, preserve_rng_state=False),
    "to the end": partial(checkpoint, use_reentrant=False, early_stop=False),
    "selective": partial(
        checkpoint,
        use_reentrant=False,
        context_fn=partial(create_selective_checkpoint_contexts, _keep_products),
    ),
    "nested": _nested,
    "save_on_cpu": _with_hooks(save_on_cpu),
    "unpacked once": _with_hooks(_once),
    "without gradients first": _looked_at_first(torch.no_grad),
    "inference first": _looked_at_first(torch.inference_mode),
}


def _ways() -> list[Any]:
    return [
        pytest.param(index, way, id=f"{name}-{index}-{way}")
        for index, (name, _, _) in enumerate(LAYERS)
        for way in (*ops.algorithm_names(getattr(cnnexp.nn, name).op), "auto")
    ]


class _Between(nn.Module):
    """A layer between others, so that its input has a gradient and its output is used."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, image: Tensor) -> Tensor:
        output = self.layer(image * 2)
        return (output[0] if isinstance(output, tuple) else output).sin()


def _results(run: Run, layer: nn.Module, image: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Output, gradients and buffers."""
    torch.manual_seed(1)  # dropout draws
    image = image.clone().requires_grad_()
    output = run(layer, image)
    output.square().sum().backward()  # a reentrant checkpoint does not work with autograd.grad
    grads = [tensor.grad for tensor in (image, *layer.parameters())]
    assert all(grad is not None for grad in grads)
    return [output.detach(), *(grad for grad in grads if grad is not None)], layer.state_dict()


def _layer(index: int, way: str) -> nn.Module:
    name, arguments, options = LAYERS[index]
    torch.manual_seed(0)
    return getattr(cnnexp.nn, name)(*arguments, **options, algorithm=way).double()


IMAGE = torch.randn(2, 2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@functools.cache
def _torchs(index: int, habit: str, between: bool) -> tuple[list[Tensor], dict[str, Tensor]]:
    layer = _layer(index, "native")
    return _results(HABITS[habit], _Between(layer) if between else layer, IMAGE)


@pytest.mark.parametrize(("index", "way"), _ways())
def test_a_layer_gives_the_same_by_every_habit(index: int, way: str) -> None:
    for habit, run in HABITS.items():
        if LAYERS[index][0] == "Dropout" and "own random numbers" in habit:
            continue  # the two passes draw differently, by torch's as well
        for between in (False, True):
            if not between and (habit not in BARE or LAYERS[index][2].get("return_indices")):
                continue
            auto.forget()
            layer = _layer(index, way)
            found = _results(run, _Between(layer) if between else layer, IMAGE)
            expected = _torchs(index, habit, between)
            if between or way == "native":
                torch.testing.assert_close(found, expected, msg=partial(_message, habit))
            else:
                # a checkpoint that ends at its last saved tensor, a normalisation's, does not come to
                # the normalisation's statistics the second time
                torch.testing.assert_close(found[0], expected[0], msg=partial(_message, habit))


def _message(habit: str, text: str) -> str:
    return f"{habit}: {text}"
