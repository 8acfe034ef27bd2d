"""Support for the battery on other devices than the CPU: cases on the device, and the arithmetic there.

A GPU answers some calls by ending the whole process (a class that is out of range), sums in an order
of its own unless that is forbidden, and may round the factors of a float32 product to 10 bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.ops.precision import whole_float32
from cnnexp.proofs.cases import Case
from cnnexp.proofs.torch_twins import called

CPU = torch.device("cpu")


def moved(case: Case, device: torch.device) -> Case | None:
    """``case`` with its tensors on ``device``, in the same memory layout.

    The result is None for a call that a GPU would answer by ending the process: a class beyond the logits.
    """
    if device.type == "cpu":
        return case
    target = case.arguments.get("target")
    if target is not None and not target.is_floating_point() and target.numel():
        logits = case.tensors[0]
        if int(target.max()) >= logits.size(0 if logits.dim() == 1 else 1):
            return None
    return case.mapped(lambda tensor: _to(tensor, device))


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy with the same strides, including gaps between elements, which ``Tensor.to`` would close."""
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return copy.copy_(tensor)


@contextmanager
def judged_on(device: torch.device) -> Iterator[None]:
    """Let a GPU compute float32 in float32, and sum in one order where it can, inside the context.

    Where it cannot, as in torch's own backward of max-pooling, no error is raised and no warning given,
    nor is one where torch pads unevenly.
    """
    with warnings.catch_warnings(), ExitStack() as undo:
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")
        if device.type == "cuda":
            warnings.filterwarnings("ignore", "(?s).*deterministic.*")
            undo.enter_context(whole_float32())
            fixed = torch.are_deterministic_algorithms_enabled()
            warns = torch.is_deterministic_algorithms_warn_only_enabled()
            undo.callback(torch.use_deterministic_algorithms, fixed, warn_only=warns)
            torch.use_deterministic_algorithms(True, warn_only=True)
        yield


def twin_on(device: torch.device, op: str, algorithm: str) -> Callable[..., Any]:
    """The torch function that ``algorithm`` of ``op`` must agree with on ``device``.

    On a GPU torch draws the mask of its dropout inside its kernel, so ours has another mask: there
    the twin is the formula, with the mask that ours draws.
    """
    if device.type == "cpu" or op != "dropout" or algorithm == "native":
        return called(op, None)
    return _dropout


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not 0 < p < 1 or not training:
        return F.dropout(input, p, training, inplace)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mask = torch.empty_like(input, dtype=torch.bool).bernoulli_(1 - p)
    return input * (mask.to(input.dtype) / (1 - p))
