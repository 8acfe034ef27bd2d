"""Students' autograd Functions and Modules, called with the tensors of a case."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cnnexp.grading.binding import assign
from cnnexp.grading.cases import Case
from cnnexp.grading.objects import build

if TYPE_CHECKING:
    from cnnexp.grading.submission import Answer, Submission


def run_torch(submission: Submission, values: dict[str, Any], case: Case) -> Answer:
    """Forward, and the gradients that torch gets by the student's backward."""
    from cnnexp.grading.submission import Answer, as_array

    contract = submission.contract
    names = contract.gradients
    leaves = {n: values[n].clone().requires_grad_() for n in names}
    before = {n: values[n].clone() for n in contract.tensors}
    inputs = {**values, **leaves}
    if submission.kind == "Function":
        output = submission.forward.apply(*_arguments(submission, inputs))  # pyright: ignore[reportFunctionMemberAccess]
    else:
        output, leaves = _through_module(submission, inputs, case)
    output = output[0] if isinstance(output, tuple) else output
    answer = Answer(as_array(output))
    sent = values["grad_output"]
    kept = sent.clone()
    found = torch.autograd.grad(
        output,
        [leaves[n] for n in names],
        sent.to(output.dtype).reshape(output.shape),
        allow_unused=True,
    )
    made = dict(zip(names, (as_array(g) for g in found), strict=True))
    answer.gradients = submission.restored(made, case)
    if not torch.equal(kept, sent):
        answer.notes.append("backward changes grad_output in place")
    for name, old in before.items():
        now = leaves.get(name, values[name]).detach()
        if now.shape != old.shape or not np.array_equal(old.numpy(), now.double().numpy()):
            answer.notes.append(f"forward changes {name} in place")
    return answer


def roles_of_function(submission: Submission) -> dict[str, str]:
    """Which argument each parameter of a Function's forward gets; ctx is left out."""
    forward = submission.forward.forward  # pyright: ignore[reportFunctionMemberAccess]
    signature = inspect.signature(forward)
    names = list(signature.parameters)
    if names and names[0] in ("ctx", "context", "self", "context_"):
        names = names[1:]
    loose = submission.contract.arguments

    def stand_in(**_: Any) -> None: ...

    kept = [
        signature.parameters[n].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names
    ]
    stand_in.__signature__ = inspect.Signature(kept)  # pyright: ignore[reportFunctionMemberAccess]
    return assign(stand_in, loose, loose)


def _arguments(submission: Submission, inputs: dict[str, Any]) -> list[Any]:
    return [inputs[argument] for argument in roles_of_function(submission).values()]


_PARAMETERS = {
    "w": ("weight", "w", "kernel", "weights", "filters"),
    "b": ("bias", "b", "biases"),
    "gamma": ("gamma", "weight", "w", "scale"),
    "beta": ("beta", "bias", "b", "shift"),
}


def _through_module(
    submission: Submission, inputs: dict[str, Any], case: Case
) -> tuple[Any, dict[str, Any]]:
    module = build(submission, inputs, case).double().train()
    parameters = dict(module.named_parameters())
    leaves = {n: inputs[n] for n in submission.contract.gradients}
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
    tensors = [n for n in submission.contract.tensors if n not in _PARAMETERS]
    return module(*(inputs[n] for n in tensors)), leaves
