"""Mutants that compute the same, each with the reason: they are looked at once and then known."""

from __future__ import annotations

from tests.mutation.mutants import Mutant

__all__ = ["reason_for"]

# (end of the file's name, the line as it stands, what is put in, why nothing can tell)
_KNOWN: tuple[tuple[str, str, str, str], ...] = (
    (
        "ops/batch_norm.py",
        "grads: list[Tensor | None] = [None] * 7",
        "(8)",
        "autograd takes more gradients than inputs where those beyond are None",
    ),
    (
        "ops/batch_norm.py",
        "if running_mean is not None and running_var is not None:",
        "(running_mean is not None or running_var is not None)",
        "both or neither: all else was refused before",
    ),
    (
        "ops/conv_relu_pool/fused.py",
        "return 2 * math.prod(pool.output_size) <= math.prod(conv.output_size)",
        "(2 / math.prod(pool.output_size))",
        "which of two exact kernels computes: a matter of speed",
    ),
)


def reason_for(mutant: Mutant) -> str:
    """Why ``mutant`` computes the same; "" where that is not known."""
    for file, text, after, reason in _KNOWN:
        if mutant.file.endswith(file) and mutant.text == text and mutant.after == after:
            return reason
    return ""
