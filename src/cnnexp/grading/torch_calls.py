"""Students' autograd Functions and Modules, called with the tensors of a case."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from cnnexp.grading.answers import Answer, as_array
from cnnexp.grading.binding import assign
from cnnexp.grading.cases import Case
from cnnexp.grading.contract import RUNNING, Contract
from cnnexp.grading.objects import build


def run_function(
    function: Callable[..., Any], contract: Contract, values: dict[str, Any]
) -> Answer:
    """Forward of an autograd Function, and the gradients that torch gets by its backward."""
    leaves = _leaves(contract, values)
    roles = roles_of_function(function, contract)
    inputs = {**values, **leaves}
    arguments = [inputs[argument] for argument in roles.values()]
    output = function.apply(*arguments)  # pyright: ignore[reportFunctionMemberAccess]
    return _backward(contract, values, leaves, output)


def run_module(
    maker: Callable[..., Any], contract: Contract, values: dict[str, Any], case: Case
) -> Answer:
    """Forward of a Module with the weights of the case, and the gradients that autograd makes."""
    inputs = {**values, **_leaves(contract, values)}
    module = build(maker, contract, inputs, case).double().train()
    parameters = dict(module.named_parameters())
    leaves = {n: inputs[n] for n in contract.gradients}
    for name, spelled in _PARAMETERS.items():
        if name not in leaves:
            continue
        ends = {full: full.rpartition(".")[2].lower() for full in parameters}
        full = next((f for s in spelled for f, end in ends.items() if end == s), None)
        if full is None:
            continue
        with torch.no_grad():
            parameters[full].copy_(leaves[name].reshape(parameters[full].shape))
        leaves[name] = parameters.pop(full)
    tensors = [n for n in contract.tensors if n not in _PARAMETERS]
    return _backward(contract, values, leaves, module(*(inputs[n] for n in tensors)))


def _leaves(contract: Contract, values: dict[str, Any]) -> dict[str, Any]:
    return {n: values[n].clone().requires_grad_() for n in contract.gradients}


def _backward(
    contract: Contract, values: dict[str, Any], leaves: dict[str, Any], output: Any
) -> Answer:
    """The gradients of the leaves, and what the forward or backward has changed in place."""
    names = contract.gradients
    output = output[0] if isinstance(output, tuple) else output
    answer = Answer(as_array(output))
    sent = values["grad_output"]
    kept = sent.clone()
    g = sent.to(output.dtype).reshape(output.shape)
    found = torch.autograd.grad(output, [leaves[n] for n in names], g, allow_unused=True)
    answer.gradients = dict(zip(names, (as_array(gradient) for gradient in found), strict=True))
    if not torch.equal(kept, sent):
        answer.notes.append("backward changes grad_output in place")
    for name in contract.tensors:
        old, now = values[name], leaves.get(name, values[name]).detach()
        if now.numel() != old.numel() or not torch.equal(old.reshape(now.shape), now):
            answer.notes.append(f"forward changes {name} in place")
    return answer


def roles_of_function(function: Callable[..., Any], contract: Contract) -> dict[str, str]:
    """Which argument each parameter of a Function's forward gets; ctx is left out."""
    forward = function.forward  # pyright: ignore[reportFunctionMemberAccess]
    signature = inspect.signature(forward)
    names = list(signature.parameters)
    if names and names[0] in ("ctx", "context", "self", "context_"):
        names = names[1:]
    loose = contract.arguments

    def stand_in(**_: Any) -> None: ...

    kept = [
        signature.parameters[n].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names
    ]
    stand_in.__signature__ = inspect.Signature(kept)  # pyright: ignore[reportFunctionMemberAccess]
    return assign(stand_in, [*loose, *RUNNING], loose)


_PARAMETERS = {
    "w": ("weight", "w", "kernel", "weights", "filters"),
    "b": ("bias", "b", "biases"),
    "gamma": ("gamma", "weight", "w", "scale"),
    "beta": ("beta", "bias", "b", "shift"),
}
