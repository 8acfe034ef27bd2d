"""Which optimisers take one kernel for all weights."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.build import build_job

FOLDER = Path(__file__).parents[2] / "conf" / "optimizer"
CHOICES = sorted(file.stem for file in FOLDER.glob("*.yaml"))


class Own(torch.optim.Adam):
    """An optimiser of somebody else's, which may do what it likes with ``fused``."""


def _made(*overrides: str, network: nn.Module | None = None) -> Optimizer:
    small = ["data=digits", "model=tiny", "accelerator=cpu"]
    config = plain_config(Composer("train").compose([*small, *overrides]))
    return build_job(config, ("tests.",)).optimizer(network or nn.Conv2d(1, 2, 3))


def _has_a_kernel(choice: str) -> bool:
    kind: Any = type(_made(f"optimizer={choice}"))
    torchs = kind.__module__.startswith("torch.optim.")
    return torchs and "fused" in inspect.signature(kind).parameters


@pytest.mark.parametrize("choice", CHOICES)
def test_all_of_torchs_that_have_one_take_it_unless_they_are_told_not_to(choice: str) -> None:
    if not _has_a_kernel(choice):
        assert not _made(f"optimizer={choice}").defaults.get("fused")
        return
    assert _made(f"optimizer={choice}").defaults["fused"] is True
    # a key of the file, so that nobody has to write +optimizer.fused
    assert _made(f"optimizer={choice}", "optimizer.fused=false").defaults["fused"] is False


def test_some_have_one() -> None:
    assert {"adam", "adamw", "sgd", "momentum", "nesterov", "adagrad"} == set(
        filter(_has_a_kernel, CHOICES)
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ("accelerator.precision=16-mixed",),  # takes the scale off the gradients itself
        ("+optimizer.foreach=true",),
        ("optimizer._target_=tests.config.test_optimizer.Own",),
    ],
)
def test_where_it_would_not_do(overrides: tuple[str, ...]) -> None:
    assert not _made(*overrides).defaults["fused"]


@pytest.mark.parametrize("asked", ["null", "true", "false"])
def test_a_network_without_memory_is_checked_with_the_loop(asked: str) -> None:
    network = nn.Conv2d(1, 2, 3, device="meta")
    assert _made(f"optimizer.fused={asked}", network=network).defaults["fused"] is None


@pytest.mark.parametrize("override", ["optimizer=adam", "optimizer.fused=true"])
def test_gradients_of_another_memory_format_move_the_right_weights(override: str) -> None:
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        network = nn.Conv2d(3, 4, 3).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        optimizer = _made(override, network=network)
        for weight in network.parameters():
            weight.grad = torch.arange(float(weight.numel())).view(weight.shape).sin()
        optimizer.step()
        found.append(network.weight.detach())
    torch.testing.assert_close(found[1], found[0])


def test_a_weight_with_gaps_has_the_loop() -> None:
    network = nn.Linear(4, 3)
    network.weight = nn.Parameter(torch.ones(3, 8)[:, ::2])
    assert _made(network=network).defaults["fused"] is None
    with pytest.raises(ConfigError, match=r"optimizer: fused=True: a weight of shape \(3, 4\)"):
        _made("optimizer.fused=true", network=network)
