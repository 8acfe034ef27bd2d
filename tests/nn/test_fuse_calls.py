"""Blocks of networks that call activation and pooling in their own code."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

import cnnexp
from cnnexp import tuning
from cnnexp.nn import layer_algorithms, split_blocks
from cnnexp.nn.per_sample import per_sample_gradients
from cnnexp.tuning import auto
from tests.nn.calls import CALLS, blocks_of, draw, pair, results

every_call = pytest.mark.parametrize("name", CALLS)


@every_call
@pytest.mark.parametrize("recompute", [False, True])
def test_it_computes_what_it_did_and_is_put_back(name: str, recompute: bool) -> None:
    forward, blocks = CALLS[name]
    theirs, ours = pair(forward)
    cnnexp.replace_layers(ours, "fused", recompute=recompute, functions=True)
    assert tuple(blocks_of(ours)) == blocks
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for training in (True, False, True):
        for each in (theirs, ours):
            each.train(training)
        torch.testing.assert_close(results(ours, draw()), results(theirs, draw()))
    copied = copy.deepcopy(ours)
    split_blocks(ours)
    assert not blocks_of(ours)
    for each in ours.modules():
        assert not {"step", "steps", "activation", "fused"} & vars(each).keys()
    expected = results(theirs, draw())
    for each in (copied, ours):
        torch.testing.assert_close(results(each, draw()), expected)


def test_the_block_is_computed_as_one() -> None:
    theirs, ours = pair(CALLS["one pooling twice"][0])
    named: list[str] = []
    for each in (theirs, ours):
        output, names, seen = each(draw()), [], set[Any]()
        waiting = [output.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in seen:
                seen.add(node)
                names.append(node.name())
                waiting += [after for after, _ in node.next_functions]
        named.append(" ".join(names))
    assert "MaxPool2D" in named[0]
    assert not any(word in named[1] for word in ("MaxPool", "Relu", "Threshold", "ConvolutionB"))


@pytest.mark.parametrize("name", ["functions", "tanh, the mean", "normalised"])
def test_torch_func_compile_export_and_traces_give_the_same(name: str) -> None:
    theirs, ours = pair(CALLS[name][0])
    theirs.eval()
    ours.eval()
    image = draw()
    expected = theirs(image)
    weights = dict(ours.named_parameters())

    def loss(weights: Mapping[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(ours, dict(weights), (one[None],)).square().sum()

    each = vmap(grad(loss), (None, 0))(weights, image)
    together = grad(lambda w: functional_call(ours, w, (image,)).square().sum())(weights)
    for key, gradient in together.items():
        torch.testing.assert_close(each[key].sum(0), gradient)
    torch.testing.assert_close(torch.compile(ours, backend="eager")(image), expected)
    torch.testing.assert_close(torch.export.export(ours, (image,)).module()(image), expected)
    with warnings.catch_warnings():
        for kind in (FutureWarning, DeprecationWarning):  # that torch.jit is deprecated
            warnings.simplefilter("ignore", kind)
        traced = torch.jit.trace(ours, (image,))
    torch.testing.assert_close(traced(image), expected)  # pyright: ignore[reportCallIssue]
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), expected)


@pytest.mark.parametrize("name", ["functions", "one pooling twice", "tanh, the mean", "normalised"])
def test_gradients_of_each_sample(name: str) -> None:
    theirs, ours = pair(CALLS[name][0])
    image, target = draw(), torch.zeros(3, dtype=torch.long)

    def head(network: nn.Module) -> nn.Module:
        return nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()

    expected = per_sample_gradients(head(theirs), F.cross_entropy, (image, target))
    found = per_sample_gradients(head(ours), F.cross_entropy, (image, target))
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient)


def test_auto_hears_the_blocks_and_chooses_for_them(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path))
    auto.forget()
    theirs, ours = pair(CALLS["one pooling twice"][0], "auto")
    heard: list[str] = []
    with auto.heard_calls(lambda call: heard.append(call.op)):
        ours(draw())
    assert heard == ["conv_relu_pool", "conv_relu_pool"]
    choice = tuning.choose_step(ours, draw())
    tuning.pin_algorithms(ours, choice.layers)
    assert "auto" not in layer_algorithms(ours).values()
    torch.testing.assert_close(results(ours, draw()), results(theirs, draw()))
    auto.forget()
