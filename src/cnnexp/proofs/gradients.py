"""The first derivative of a call, compared with central differences."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from cnnexp.proofs.calls import Call, Run
from cnnexp.proofs.differences import Noise, vector
from cnnexp.proofs.numeric import Numeric
from cnnexp.proofs.report import Report

ASPECT = "first derivative"


class Sent:
    """The gradient that is sent back through a call, and the outputs that receive it.

    Attributes:
        kept: The indices of the outputs through which a gradient flows.
        names: The names of these outputs.
        weights: The gradient, one tensor for each of these: fixed numbers, none of them near 0.
    """

    def __init__(self, run: Run) -> None:
        self.kept = [i for i, (_, t) in enumerate(run.outputs) if t.requires_grad]
        self.names = [run.outputs[i][0] for i in self.kept]
        generator = torch.Generator().manual_seed(7)
        self.weights = [signed(run.outputs[i][1], generator) for i in self.kept]

    def outputs(self, run: Run) -> list[Tensor]:
        """The outputs of ``run`` that receive the gradient."""
        return [run.outputs[i][1] for i in self.kept]

    def gradients(self, run: Run, weights: Sequence[Tensor] | None = None) -> list[Tensor | None]:
        """∂L/∂leaf for each leaf of ``run``, as :func:`gradients`, for ``weights`` or else our own."""
        return gradients(run, self.outputs(run), self.weights if weights is None else weights)

    def gradients_unless_raised(
        self, run: Run, weights: Sequence[Tensor] | None = None
    ) -> list[Tensor | None] | None:
        """:meth:`gradients`; None where the backward raises, which is the first derivative's to say."""
        try:
            return self.gradients(run, weights)
        except Exception:
            return None

    def row(self, call: Call, values: Sequence[Tensor]) -> Tensor:
        """All elements of these outputs at ``values``, in one vector, as float64 on the CPU."""
        return vector(self.outputs(call.run(values))).cpu()


def signed(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers of either sign, of size ½ to 1½, with the shape, dtype and device of ``like``."""
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64) + 0.5
    sign = 2.0 * torch.randint(2, like.shape, generator=generator) - 1
    return (drawn * sign).to(like.dtype).to(like.device)


def gradients(
    run: Run, outputs: Sequence[Tensor], weights: Sequence[Tensor]
) -> list[Tensor | None]:
    """∂L/∂leaf for each leaf of ``run``, with L = Σ weights · outputs; None for a leaf that none reaches."""
    leaves = [leaf for leaf in run.leaves if leaf.requires_grad]
    try:
        grads = torch.autograd.grad(
            outputs, leaves, list(weights), allow_unused=True, retain_graph=True
        )
    except RuntimeError as error:
        if "use_reentrant=True" not in str(error):  # an error of torch.utils.checkpoint
            raise
        grads = _by_backward(outputs, leaves, weights)
    found = (g.to_dense() if g is not None and g.is_sparse else g for g in grads)
    return [next(found) if leaf.requires_grad else None for leaf in run.leaves]


def _by_backward(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], weights: Sequence[Tensor]
) -> list[Tensor | None]:
    """The gradients computed by ``backward``; the leaves' own ``grad`` is restored."""
    before = [leaf.grad for leaf in leaves]
    try:
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(list(outputs), list(weights), retain_graph=True)
        return [leaf.grad for leaf in leaves]
    finally:
        for leaf, grad in zip(leaves, before, strict=True):
            leaf.grad = grad


def judge_first_derivative(
    report: Report, call: Call, sent: Sent, noise: Noise, elements: int
) -> None:
    """Compare each ∂L/∂leaf with differences: for all outputs, output by output, leaf by leaf."""
    report.verdict(ASPECT)
    run = call.run()
    try:
        found = sent.gradients(run)
    except Exception as error:
        report.wrong(*_raised(call, error))
        return
    middle = vector(sent.outputs(run)).cpu()
    weights = vector(sent.weights).cpu()
    limit = _share(call, elements)
    numeric = []
    for i in range(len(found)):
        numeric.append(Numeric(call, i, sent.row, middle, weights, noise, limit))
    _nothing_arrives(report, call, found, numeric)
    expected = {leaf.name: n.expected for leaf, n in zip(call.leaves, numeric, strict=True)}
    shapes = [t.shape for t in sent.outputs(run)]
    for leaf, each, grad in zip(call.leaves, numeric, found, strict=True):
        if grad is not None:
            others = {name: e for name, e in expected.items() if name != leaf.name}
            error, mistake = each.judge(grad, others, shapes)
            if mistake:
                report.wrong(ASPECT, mistake)
            report.worst("differences", error)
            if each.unjudged:
                report.missing(
                    ASPECT, f"{each.unjudged} elements of {leaf.name} have no finite differences"
                )
    if report.verdict(ASPECT).wrong:
        return
    if len(sent.kept) > 1:
        _each_output_alone(report, call, call.run(), sent, numeric)
    if len(found) > 1:
        _each_leaf_alone(report, call, sent, found, noise)


def _share(call: Call, elements: int) -> int:
    """The number of elements of each leaf that are checked one by one; the more leaves, the fewer of each."""
    wanted = sum(min(elements, value.numel()) for value in call.values())
    return elements if wanted <= 2 * elements else max(16, 2 * elements // len(call.leaves))


def _nothing_arrives(
    report: Report, call: Call, found: list[Tensor | None], numeric: list[Numeric]
) -> None:
    nothing = all(grad is None for grad in found)
    for leaf, grad, each in zip(call.leaves, found, numeric, strict=True):
        if grad is not None or not each.matters():
            continue
        text = f"no gradient arrives at {leaf.name}, though the output depends on it"
        if leaf.held is None and not nothing:
            report.missing(ASPECT, f"{text}: ∂L/∂{leaf.name} is None")
        else:
            report.wrong(ASPECT, text)


def _each_output_alone(
    report: Report, call: Call, run: Run, sent: Sent, numeric: list[Numeric]
) -> None:
    """Check each output alone: callers often use one of several, and the others then send no gradient."""
    start = 0
    for name, output, weights in zip(sent.names, sent.outputs(run), sent.weights, strict=True):
        part = slice(start, start + output.numel())
        start += output.numel()
        try:
            found = gradients(run, [output], [weights])
        except Exception as error:
            text = f"the backward raises where only {name} has a gradient"
            report.wrong(ASPECT, f"{text}: {type(error).__name__}: {error}")
            continue
        for leaf, grad, each in zip(call.leaves, found, numeric, strict=True):
            if not each.agrees_on_part(grad, part):
                report.wrong(ASPECT, f"∂L/∂{leaf.name} is wrong where only {name} has a gradient")


def _each_leaf_alone(
    report: Report, call: Call, sent: Sent, found: list[Tensor | None], noise: Noise
) -> None:
    """Check each leaf alone: where layers are frozen, only some gradients are asked for."""
    for i, (leaf, grad) in enumerate(zip(call.leaves, found, strict=True)):
        if grad is None:
            continue
        scale = noise.tolerance * max(1e-12, grad.abs().max().item() if grad.numel() else 0.0)
        same = []
        for _ in range(2):
            try:
                alone = _alone(call, sent, i)
            except Exception as error:
                text = f"∂L/∂{leaf.name} where only {leaf.name} requires a gradient"
                report.missing(ASPECT, f"{text}: {type(error).__name__}: {error}")
                break
            alone = torch.zeros_like(grad) if alone is None else alone
            same.append(torch.allclose(alone, grad, rtol=0, atol=scale, equal_nan=True))
            if all(same):
                break
        if same and not same[0]:
            text = "changes where only it requires a gradient, as with all others frozen"
            if same[-1]:
                text = "changes from call to call: is a value of an earlier call used?"
            report.wrong(ASPECT, f"∂L/∂{leaf.name} {text}")


def _alone(call: Call, sent: Sent, i: int) -> Tensor | None:
    """∂L/∂leaf where leaf ``i`` is the only one that requires a gradient."""
    run = call.run(alone=i)
    kept = [k for k, t in enumerate(sent.outputs(run)) if t.requires_grad]
    outputs = [sent.outputs(run)[k] for k in kept]
    return gradients(run, outputs, [sent.weights[k] for k in kept])[i] if kept else None


def _raised(call: Call, error: Exception) -> tuple[str, str]:
    """The aspect and the sentence for an exception of a backward."""
    text = str(error)
    shape = re.search(r"invalid gradient at index (\d+) - got (\[.*?\]) but expected (.*)", text)
    if shape is None:
        return ASPECT, f"the backward raises {type(error).__name__}: {text}"
    index, got, wanted = int(shape[1]), shape[2], shape[3].rstrip(".")
    tensors = [leaf.name for leaf in call.leaves]
    known = all(leaf.held is None for leaf in call.leaves) and index < len(tensors)
    which = tensors[index] if known else f"input {index + 1} of the Function"
    return "dtype and shape", f"the backward gives {which} a gradient of {got}, expected {wanted}"
