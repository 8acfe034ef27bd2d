"""What a network's code may do with an output that waits, other than what the trace of it saw."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import cnnexp
from cnnexp.nn.deferred import Deferred
from tests.nn.calls import CALLS, Calls, Forward, blocks_of, draw, pair, results


# What code may do in between, once ``twist`` is set, after the trace saw a block.
def _twisted(usual: Forward, twisted: Forward) -> Forward:
    return lambda s, x: twisted(s, x) if s.twist else usual(s, x)


def _sees(s: Calls, y: Tensor, *more: Any) -> Tensor:
    s.seen.append((y.shape, *more))
    return y


def _retained(s: Calls, x: Tensor) -> Tensor:
    y = s.conv(x)
    if y.requires_grad:
        y.retain_grad()
    s.seen.append(y)
    return F.max_pool2d(F.relu(y), 2)


def _checkpointed(s: Calls, x: Tensor) -> Tensor:
    return checkpoint(_USUAL, s, x, use_reentrant=False)  # pyright: ignore[reportReturnType]


def _without_gradient(s: Calls, x: Tensor) -> Tensor:
    y = s.conv(x)
    with torch.no_grad():
        mask = F.max_pool2d(F.relu(y), 2)
    return F.max_pool2d(F.relu(y), 2) * mask


def _from_constants(s: Calls, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = s.conv(x)
    return F.max_pool2d(F.relu(y), 2) * F.max_pool2d(F.relu(s.conv(x)), 2)


def _both(s: Calls, x: Tensor) -> Tensor:
    y = s.conv(x)
    return F.max_pool2d(F.relu(y), 2) + F.max_pool2d(y, 2)


def _after_the_block(s: Calls, x: Tensor) -> Tensor:
    y = s.bn(s.conv(x))
    return F.relu(y) * y


def _aliased(s: Calls, x: Tensor) -> Tensor:
    y = s.conv(x)
    F.relu_(y)
    return F.max_pool2d(y, 2) * y.mean()


def _aliased_norm(s: Calls, x: Tensor) -> Tensor:
    y = s.bn(s.conv(x))
    F.relu(y, inplace=True)
    return y * 2


_USUAL = CALLS["functions"][0]
_NORMALISED = CALLS["normalised"][0]
TWISTS: dict[str, tuple[Forward, Forward]] = {
    "another activation": (_USUAL, lambda s, x: F.max_pool2d(F.elu(s.conv(x)), 2)),
    "another pooling": (_USUAL, lambda s, x: F.max_pool2d(F.relu(s.conv(x)), 3)),
    "no pooling": (_USUAL, lambda s, x: F.relu(s.conv(x))),
    "nothing": (_USUAL, lambda s, x: s.conv(x)),
    "a look": (_USUAL, lambda s, x: F.max_pool2d(F.relu(_sees(s, s.conv(x))), 2)),
    "a sum": (_USUAL, lambda s, x: F.relu(s.conv(x)).sum((2, 3), keepdim=True)),
    "in a list": (_USUAL, lambda s, x: torch.cat([s.conv(x), F.relu(s.conv(x))], 1)),
    "by name": (_USUAL, lambda s, x: F.max_pool2d(input=F.relu(input=s.conv(x)), kernel_size=2)),
    "an index": (_USUAL, lambda s, x: F.relu(s.conv(x)[:, 1:])),
    "into it": (_USUAL, lambda s, x: F.max_pool2d(F.relu(s.conv(x).add_(1)), 2)),
    "an operator": (_USUAL, lambda s, x: F.max_pool2d(F.relu(1 - s.conv(x)), 2)),
    "its gradient": (_USUAL, _retained),
    "without gradient": (_USUAL, _without_gradient),
    "from constants": (_USUAL, _from_constants),
    "both": (_USUAL, _both),
    "what became of it": (_USUAL, _aliased),
    "into a layer": (_USUAL, lambda s, x: s.again(s.conv(x))),
    "into a layer, by name": (_USUAL, lambda s, x: s.again(input=s.conv(x))),
    "into layers": (CALLS["layers"][0], lambda s, x: s.relu(s.mean(s.conv(x)))),
    "into one layer": (CALLS["layers"][0], lambda s, x: s.relu(s.conv(x)) + s.pool(x).mean()),
    "into a layer's forward": (
        _USUAL,
        lambda s, x: s.pool.forward(s.relu.forward(s.conv(x).clone())),
    ),
    "checkpointed": (_USUAL, _checkpointed),
    "normalised, read again": (_NORMALISED, _after_the_block),
    "normalised, what became of it": (_NORMALISED, _aliased_norm),
    "normalised, another": (_NORMALISED, lambda s, x: F.gelu(s.bn(s.conv(x)))),
}


@pytest.mark.parametrize("name", TWISTS)
def test_code_that_does_something_else_gets_what_torch_gives(name: str) -> None:
    theirs, ours = pair(_twisted(*TWISTS[name]))
    assert blocks_of(ours)
    for training in (True, True, False):
        for each in (theirs, ours):
            each.train(training)
            each.twist = True
        torch.testing.assert_close(results(ours, draw()), results(theirs, draw()))
    for one, other in zip(theirs.seen, ours.seen, strict=True):
        if isinstance(one, Tensor):
            assert other.grad is not None
            torch.testing.assert_close(other.grad, one.grad)
        else:
            assert one == other
    ours.twist = theirs.twist = False
    torch.testing.assert_close(results(ours, draw()), results(theirs, draw()))


@pytest.mark.parametrize("inside", ["the layer", "the steps", "everything"])
def test_each_call_is_computed_in_its_own_precision(inside: str) -> None:
    def forward(s: Calls, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=inside != "the steps"):
            y = s.conv(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside != "the layer"):
            return F.max_pool2d(F.relu(y), 2)

    theirs, ours = pair(forward)
    image = draw().float()
    output, expected = ours.float()(image), theirs.float()(image)
    assert output.dtype == expected.dtype
    torch.testing.assert_close(output, expected, rtol=0.02, atol=0.02)
    if inside == "the layer":
        assert output.equal(expected)  # by torch's bfloat16, and no other


def test_the_output_is_a_tensor_and_always_the_same() -> None:
    _, ours = pair(_twisted(_USUAL, lambda s, x: s.conv(x)))
    ours.twist = True
    output = ours(draw())
    assert isinstance(output, Tensor)
    assert isinstance(output, Deferred)
    assert (output.shape, output.dtype, output.requires_grad) == ((3, 4, 9, 8), torch.float64, True)
    assert output.output() is output.output()
    assert "tensor(" in repr(output)
    assert pickle.loads(pickle.dumps(output.detach())).equal(output)
    assert output.detach().numpy().shape == (3, 4, 9, 8)


def _note(into: list[tuple[Tensor, Tensor]], _layer: Any, args: Any, output: Any) -> None:
    into.append((args[0].sum(), output.sum()))


def test_hooks_that_come_later_see_each_layers_output() -> None:
    theirs, ours = pair(CALLS["layers"][0])
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for key, network, layers in (
        ("theirs", theirs, ("conv", "relu", "pool")),
        ("ours", ours, ("conv", "relu", "pool")),
        ("ours, the last", pair(CALLS["layers"][0])[1], ("pool",)),
        ("ours, the second", pair(CALLS["layers"][0])[1], ("relu",)),
    ):
        seen[key] = []
        for layer in layers:
            network.get_submodule(layer).register_forward_hook(partial(_note, seen[key]))
        torch.testing.assert_close(results(network, draw()), results(theirs, draw()))
    assert len(seen["theirs"]) >= 3
    torch.testing.assert_close(seen["ours"][:3], seen["theirs"][:3])
    torch.testing.assert_close(seen["ours, the last"][0], seen["theirs"][2])
    torch.testing.assert_close(seen["ours, the second"][0], seen["theirs"][1])


def test_writing_into_the_input_in_between_is_an_error() -> None:
    def written(s: Calls, x: Tensor) -> Tensor:
        x = x * 1
        y = s.conv(x)
        x.add_(1)
        return F.max_pool2d(F.relu(y), 2)

    _, ours = pair(_twisted(_USUAL, written))
    ours.twist = True
    with pytest.raises(
        RuntimeError,
        match="the input, the parameters or the mode of DeferredConvReLUPool changed between",
    ):
        ours(draw())


def _kept(s: Calls, x: Tensor) -> Tensor:
    s.seen.append(y := s.conv(x))
    return F.max_pool2d(F.relu(y), 2)


@pytest.mark.parametrize("change", ["step", "load", "input"])
def test_an_output_that_is_looked_at_too_late_is_an_error(change: str) -> None:
    _, ours = pair(_kept)
    assert blocks_of(ours)
    image, before = draw(), {name: 2 * value for name, value in ours.state_dict().items()}
    ours(image).sum().backward()
    if change == "step":
        torch.optim.SGD(ours.parameters(), 0.1).step()
    elif change == "load":
        ours.load_state_dict(before)
    else:
        image.mul_(2)
    with pytest.raises(RuntimeError, match="the input, the parameters or the mode of Deferred"):
        ours.seen[0].mean()


def test_a_mode_that_changes_before_the_look_is_an_error() -> None:
    _, ours = pair(_twisted(_NORMALISED, lambda s, x: s.bn(s.conv(x))))
    ours.twist = True
    output = ours.eval()(draw())
    ours.train()
    with pytest.raises(RuntimeError, match=r"take output\.clone\(\) at the call"):
        output.mean()


def test_weights_for_one_call_alone_are_an_error() -> None:
    def forward(s: Calls, x: Tensor) -> Tensor:
        doubled = {name: value * 2 for name, value in s.conv.named_parameters()}
        return F.max_pool2d(F.relu(functional_call(s.conv, doubled, (x,))), 2)

    _, ours = pair(_twisted(_USUAL, forward))
    ours.twist = True
    with pytest.raises(RuntimeError, match="the input, the parameters or the mode of Deferred"):
        ours(draw())


def test_writing_into_an_output_after_its_activation_is_an_error() -> None:
    def forward(s: Calls, x: Tensor) -> Tensor:
        y = s.conv(x)
        activated = F.relu(y)
        y.mul_(-1)
        return F.max_pool2d(activated, 2)

    _, ours = pair(_twisted(_USUAL, forward))
    ours.twist = True
    with pytest.raises(RuntimeError, match="was written into before what follows from it was used"):
        ours(draw())


def test_nobody_gets_it_unasked() -> None:
    network = cnnexp.replace_layers(Calls(_USUAL), "fused", quiet=True)
    assert not blocks_of(network)
    with pytest.raises(ValueError, match="functions=True goes with fused or auto, not direct"):
        cnnexp.replace_layers(network, "direct", functions=True)


class _Doubled(torch.autograd.Function):
    """Which asks for no torch functions of its arguments."""

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        return torch.as_tensor(input) * 2

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0] * 2


def test_a_gradient_is_not_lost_in_somebody_elses_function() -> None:
    _, ours = pair(_twisted(_USUAL, lambda s, x: _Doubled.apply(s.conv(x))))  # pyright: ignore[reportReturnType]
    ours.twist = True
    with pytest.raises(RuntimeError, match=r"expected shape compatible with \[0\]"):
        ours(draw()).sum().backward()
