"""Which algorithm a run of linear layers takes: the choice of its first layer, by measurement or by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import cnnexp
from cnnexp.nn import layer_algorithms, replace_layers, split_blocks
from cnnexp.tuning import auto
from cnnexp.tuning.network import waiting_layers
from tests.nn.test_fuse_linears import agree, draw, head


def test_the_first_of_a_run_has_its_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path))
    auto.forget()
    network = replace_layers(head(), "auto")
    assert set(layer_algorithms(network).values()) == {"auto"}
    waiting = set(waiting_layers(network))
    assert waiting == {"1", "7", "8"}
    chosen = cnnexp.tuning.choose_algorithms(network, draw(64))
    assert set(chosen) == waiting
    assert chosen["1"] in cnnexp.ops.algorithm_names("linear_act")
    cnnexp.tuning.pin_algorithms(network, chosen)
    agree(network, head())
    # both choices give what torch does
    for way in ("fused", "native"):
        replace_layers(network, "auto")
        cnnexp.tuning.pin_algorithms(network, chosen | {"1": way, "8": way})
        own = "fused" if way == "fused" else "native"
        assert [layer_algorithms(network)[name] for name in ("1", "3", "5", "10")] == [own] * 4
        agree(network, head())


def test_choices_of_before_layers_were_a_run_are_kept() -> None:
    network = replace_layers(head(), "auto")
    older = {str(place): "native" for place in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)}
    older |= {"3": "direct", "8": "fused", "9": "direct", "10": "fused"}
    cnnexp.tuning.pin_algorithms(network, older)
    assert layer_algorithms(network) == older
    agree(network, head())


def test_layers_that_wait_are_one_whoever_fuses_them() -> None:
    network = nn.Sequential(
        cnnexp.nn.Linear(32, 32, algorithm="auto"),
        cnnexp.nn.ReLU(algorithm="auto"),
        cnnexp.nn.Linear(32, 8, algorithm="auto"),
    )
    cnnexp.nn.fuse_blocks(network)
    assert set(cnnexp.tuning.choose_algorithms(network, torch.randn(16, 32))) == {"0"}
    handle = network[2].register_forward_hook(lambda *_: None)
    chosen = cnnexp.tuning.choose_algorithms(network, torch.randn(16, 32))
    assert set(chosen) == {"0", "1", "2"}
    cnnexp.tuning.pin_algorithms(network, chosen)
    handle.remove()
    split_blocks(replace_layers(network, "auto"))
    assert set(layer_algorithms(network).values()) == {"auto"}


def test_a_choice_is_kept_where_layers_are_gone_or_looked_at_since() -> None:
    network = replace_layers(
        nn.Sequential(
            *(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)),
            *(nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4)),
        ),
        "auto",
    )
    del network[0]
    chosen = cnnexp.tuning.choose_algorithms(network, torch.randn(16, 32))
    handle = network[7].register_forward_hook(lambda *_: None)
    cnnexp.tuning.pin_algorithms(network, chosen)
    handle.remove()
    assert "auto" not in layer_algorithms(network).values()
