"""Which optimisers take one kernel for all weights."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.optim import Optimizer

from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.build import build_job
from cnnexp.optim import Adam
from tests.config.tiny_runs import checked, tiny_run

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
    own = kind.__module__ == "cnnexp.optim.torchs"  # torch's, as ours
    return own and "fused" in inspect.signature(kind).parameters


@pytest.mark.parametrize("choice", CHOICES)
def test_all_of_torchs_that_have_one_take_it_unless_they_are_told_not_to(choice: str) -> None:
    if not _has_a_kernel(choice):
        assert not _made(f"optimizer={choice}").defaults.get("fused")
        return
    assert _made(f"optimizer={choice}").defaults["fused"] is True
    assert _made(f"optimizer={choice}", "+optimizer.fused=false").defaults["fused"] is False


def test_ours_may_be_named() -> None:
    for fused in (True, False):
        made = _made("optimizer._target_=cnnexp.optim.Adam", f"+optimizer.fused={fused}".lower())
        assert (type(made), made.defaults["fused"]) == (Adam, fused)
    assert _made("optimizer._target_=cnnexp.optim.Adam").defaults["fused"] is True


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


def test_a_network_that_is_elsewhere_has_torchs_default() -> None:
    assert _made(network=nn.Conv2d(1, 2, 3, device="meta")).defaults["fused"] is None
    network = nn.Linear(2, 2)
    network.turns = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    assert _made(network=network).defaults["fused"] is None


def test_a_class_without_such_a_kernel_may_take_the_place_of_one_with_it() -> None:
    assert "fused" not in _made("optimizer._target_=torch.optim.NAdam").defaults


def test_what_does_not_go_with_it_is_said_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="`fused` and `foreach` cannot be `True` together"):
        checked("+optimizer.fused=true", "+optimizer.foreach=true")


@pytest.mark.parametrize("changing", ["clip_norm", "clip_value", "clip_adaptive"])
def test_a_kernel_that_takes_the_scale_off_too_late_is_refused(changing: str) -> None:
    overrides = (f"regularization={changing}", "accelerator.precision=16-mixed")
    message = (
        r"optimizer.fused=true takes the scale of accelerator.precision=16-mixed off .* after "
        r"regularization\.clip would change them; leave optimizer.fused out"
    )
    with pytest.raises(ConfigError, match=message):
        _made("+optimizer.fused=true", *overrides)
    assert not _made(*overrides).defaults["fused"]
    assert _made("+optimizer.fused=true", overrides[1], "regularization=l2").defaults["fused"]
    assert _made("+optimizer.fused=true", overrides[0]).defaults["fused"]


class Contiguous(Callback):
    """Gives each weight a new gradient, whose numbers lie in another order than the weight's."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        for weight in pl_module.network.parameters():
            assert weight.grad is not None
            weight.grad = weight.grad.clone(memory_format=torch.contiguous_format)


def test_a_run_whose_callback_sets_gradients_learns_what_it_learned(tmp_path: Path) -> None:
    ends = []
    for fused in ("true", "false"):
        (tmp_path / fused).mkdir()
        run = tiny_run(
            tmp_path / fused,
            f"+optimizer.fused={fused}",
            "+callbacks.order._target_=tests.config.test_optimizer.Contiguous",
        )
        state = torch.load(run.folder.last_checkpoint, weights_only=False)
        assert state["optimizer_states"][0]["param_groups"][0]["fused"] is (fused == "true")
        ends.append(state["state_dict"])
    last = torch.channels_last
    images = [each for each in ends[0].values() if each.dim() == 4 and each.size(1) > 1]
    assert any(each.is_contiguous(memory_format=last) for each in images)
    for key, ours in ends[0].items():
        torch.testing.assert_close(ours, ends[1][key])


def test_clipping_by_the_trainer_goes_with_bfloat16(tmp_path: Path) -> None:
    """Lightning refuses optimisers with a kernel for all weights there, for the sake of float16."""
    ends = []
    for fused in ("true", "false"):
        (tmp_path / fused).mkdir()
        run = tiny_run(
            tmp_path / fused, f"+optimizer.fused={fused}", "accelerator.precision=bf16-mixed",
            "+trainer.gradient_clip_val=1e-3", "optimizer=sgd",
        )  # fmt: skip
        ends.append(torch.load(run.folder.last_checkpoint, weights_only=False)["state_dict"])
    for key, ours in ends[0].items():
        torch.testing.assert_close(ours, ends[1][key])


@pytest.mark.parametrize("override", ["optimizer=adam", "+optimizer.fused=true"])
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
        _made("+optimizer.fused=true", network=network)


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_one_average_of_the_weights_is_enough(average: str) -> None:
    pytest.importorskip("schedulefree")
    message = (
        f"AdamWScheduleFree gives averages of the weights itself, and regularization={average}"
    )
    with pytest.raises(ConfigError, match=message):
        _made("optimizer=schedule_free", f"regularization={average}")
