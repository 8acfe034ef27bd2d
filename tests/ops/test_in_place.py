"""What an op returns may be changed in place, and what is changed in place by it, as torch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnexp import ops
from cnnexp.proofs import called
from tests.ops.calls import CALLS, LOSSES, Call

# torch's own, of its twin and of native
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
every_call = pytest.mark.parametrize(
    ("call", "algorithm"),
    [
        pytest.param(call, algorithm, id=f"{name}-{algorithm}")
        for name, call in CALLS.items()
        for algorithm in ops.algorithm_names(call.op)
    ],
)


def _assign(output: Tensor) -> Tensor:
    output[:1] = 0.5
    return output


def _add_to_a_view(output: Tensor) -> Tensor:
    output.narrow(0, 0, min(1, output.size(0))).add_(1)
    return output


def _skip(output: Tensor) -> Tensor:
    output += torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return output


USES: dict[str, Callable[[Tensor], Tensor]] = {
    "y += skip": _skip,
    "y *= y.detach()": lambda y: y.mul_(y.detach()),
    "relu_": F.relu_,
    "Dropout2d(inplace=True)": lambda y: nn.Dropout2d(inplace=True)(y) if y.dim() == 4 else y,
    "y[:1] = 0.5": lambda y: _assign(y) if y.dim() else y,
    "y[:1] += 1": lambda y: _add_to_a_view(y) if y.dim() else y,
    "fill_": lambda y: y.fill_(2),
}


def _shapes(call: Call) -> Iterator[tuple[str, list[Tensor]]]:
    image, *others = (t.detach() for t in call.tensors())
    yield "as it is", [image, *others]
    if call.op not in LOSSES:
        yield "N = 0", [image[:0], *others]
    if image.dim() == 4:
        yield "channels_last", [image.contiguous(memory_format=torch.channels_last), *others]
        if call.op not in ("batch_norm", "batch_norm_act"):
            yield "no batch", [image[0], *others]


def _expected(call: Call, kind: str, use: str) -> tuple[Any, ...]:
    """What the twin in torch comes to, worked out once for all algorithms."""
    key = id(call), kind, use
    if key not in _KNOWN:
        _KNOWN[key] = _outcome(call.function(None), dict(_shapes(call))[kind], USES[use])
    return _KNOWN[key]


_KNOWN: dict[Any, tuple[Any, ...]] = {}


def _outcome(function: Callable[..., Tensor], tensors: list[Tensor], use: Any) -> tuple[Any, ...]:
    """What the use of an output comes to: (where it ends, the result or the exception's type)."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    torch.manual_seed(1)
    try:
        output = use(function(leaves[0] * 1, *leaves[1:]))
    except RuntimeError as error:
        return "forward", type(error)
    if not output.requires_grad:
        return "constant", output
    try:
        grads = torch.autograd.grad(output.square().sum(), leaves, allow_unused=True)
    except RuntimeError as error:
        return f"backward: {'modified by an inplace operation' in str(error)}", type(error)
    return "done", output.detach(), [torch.zeros(()) if g is None else g for g in grads]


@every_call
def test_an_output_is_changed_in_place_as_that_of_torch(call: Call, algorithm: str) -> None:
    """Where torch's needs its output for the backward, ours says so too, and is never wrong."""
    for kind, tensors in _shapes(call):
        for name in USES if kind == "as it is" else ["y += skip"]:
            use = USES[name]
            expected = _expected(call, kind, name)
            found = _outcome(call.function(algorithm), tensors, use)
            if (
                call.op in ("batch_norm_act", "conv_tanh_pool")
                and algorithm != "native"
                and expected[0] != found[0]
            ):
                # torch's activation keeps its output, and ours does not
                expected = _outcome(lambda *t: call.function(None)(*t).clone(), tensors, use)
            assert found[0] == expected[0], f"{kind}, {name}"
            if expected[0] in ("done", "constant"):
                where = f"{kind}, {name}: "
                torch.testing.assert_close(found[1:], expected[1:], msg=where.__add__)


def test_the_uses_can_fail() -> None:
    """The negative control: a Function that returns a view, and one that forgets what it saved."""

    class View(torch.autograd.Function):
        @staticmethod
        def forward(input: Tensor) -> Tensor:
            return (2 * input).t()

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return 2 * grad_output.t()

    tensors = [torch.randn(2, 3).double()]
    assert _outcome(View.apply, tensors, _skip)[0] == "forward"
    assert _outcome(lambda x: (2 * x).t(), tensors, _skip)[0] == "done"
    assert _outcome(torch.tanh, tensors, _skip)[0] == "backward: True"


@every_call
def test_outputs_and_gradients_share_no_memory(call: Call, algorithm: str) -> None:
    """Who changes a gradient, as clipping does, or an output, changes nothing else."""
    if algorithm == "native":
        pytest.skip("torch's own does what it does")
    for kind, tensors in _shapes(call):
        leaves = [t.clone().requires_grad_() for t in tensors]
        output = call.function(algorithm)(*leaves)
        grad_output = torch.randn_like(output)
        grads = torch.autograd.grad(output, leaves, grad_output)
        seen: dict[int, str] = {}
        named = {
            "y": output,
            "∂L/∂y": grad_output,
            **{f"input {i}": t for i, t in enumerate(leaves)},
            **{f"gradient {i}": t for i, t in enumerate(grads)},
        }
        for name, tensor in named.items():
            place = tensor.untyped_storage().data_ptr()
            if place:
                assert place not in seen, f"{kind}: {name} is in the memory of {seen[place]}"
                seen[place] = name
        if kind != "no batch":  # whose view is torch's own
            for grad in grads:
                grad.add_(torch.ones((), dtype=grad.dtype, requires_grad=True))


def test_the_gradient_of_a_bias_is_no_alias_of_that_of_the_output() -> None:
    bias = torch.zeros(4, requires_grad=True)
    grad = torch.ones(4)
    output = ops.linear(torch.ones(3), torch.ones(4, 3), bias)
    (found,) = torch.autograd.grad(output, bias, grad)
    found.mul_(5)
    assert grad.tolist() == [1, 1, 1, 1]


WRITING = {"relu": {}, "leaky_relu": {"negative_slope": 0.2}, "dropout": {"p": 0.4}}
every_writing = pytest.mark.parametrize(
    ("op", "algorithm"), [(op, n) for op in WRITING for n in ops.algorithm_names(op)]
)


def test_every_op_that_takes_inplace_is_among_them() -> None:
    taking = {op for op in ops.op_names() if "inplace" in signature(ops.get_op(op)).parameters}
    assert taking == set(WRITING)


def _in_place(op: str, algorithm: str | None) -> Callable[[Tensor], Tensor]:
    return lambda x: called(op, algorithm)(x, **WRITING[op], inplace=True)


@every_writing
def test_inplace_writes_into_the_input_as_torch(op: str, algorithm: str) -> None:
    """A network whose forward goes on with the input that it had changed is the same network."""
    results = []
    for name in (algorithm, None):
        leaf = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4).requires_grad_()
        image = leaf * 2
        output = _in_place(op, name)(image)
        assert output is image
        part = leaf * 3  # of a view too
        _in_place(op, name)(part[:, 1:])
        loss = (output * image).sum() + part.square().sum()
        results.append((image.detach(), part.detach(), torch.autograd.grad(loss, leaf)[0]))
    torch.testing.assert_close(*results)


@every_writing
def test_inplace_refuses_a_leaf_as_torch(op: str, algorithm: str) -> None:
    leaf = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        _in_place(op, algorithm)(leaf)
    with torch.no_grad():
        assert _in_place(op, algorithm)(leaf) is leaf


@every_writing
def test_inplace_under_transforms(op: str, algorithm: str) -> None:
    images = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)

    def loss(image: Tensor) -> Tensor:
        changed = image * 2
        function = getattr(ops, op) if algorithm != "native" else getattr(F, op)
        options = {} if algorithm == "native" else {"algorithm": algorithm}
        return (function(changed, **WRITING[op], inplace=True, **options) * changed).sum()

    grad = torch.func.vmap(torch.func.grad(loss), randomness="same")(images)
    if op != "dropout":
        torch.testing.assert_close(grad, torch.stack([torch.func.grad(loss)(i) for i in images]))
    assert grad.shape == images.shape
    torch._dynamo.reset()
    leaf = images.clone().requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(leaf)
    if op != "dropout":
        torch.testing.assert_close(compiled, loss(images))
        torch.testing.assert_close(
            torch.autograd.grad(compiled, leaf)[0], torch.func.grad(loss)(images)
        )


def test_leaky_relu_in_place_has_no_gradient_for_a_negative_slope() -> None:
    image = torch.ones(3, requires_grad=True) * 1
    output = ops.leaky_relu(image, -0.5, inplace=True)
    with pytest.raises(
        RuntimeError, match=r"in place has no gradient for negative_slope=-0\.5.*inplace=False"
    ):
        output.sum().backward()


@pytest.mark.parametrize("algorithm", ops.algorithm_names("dropout"))
@pytest.mark.parametrize("options", [{"training": False}, {"p": 0.0}], ids=str)
def test_dropout_that_drops_nothing_returns_its_input_as_torch(
    algorithm: str, options: dict[str, Any]
) -> None:
    image = torch.ones(3)
    assert F.dropout(image, **options) is image
    assert ops.dropout(image, **options, algorithm=algorithm) is image


@pytest.mark.parametrize("op", [*sorted(WRITING), "tanh"])
def test_auto_measures_ways_that_write_into_their_input(
    op: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnexp.tuning import auto

    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path))
    auto.forget()
    leaf = torch.linspace(-1, 1, 12).requires_grad_()
    (_in_place(op, "auto") if op in WRITING else called(op, "auto"))(leaf * 2)
    (entry,) = auto._file._read().values()
    assert set(entry["milliseconds"]) == set(ops.algorithm_names(op))
    auto.forget()
