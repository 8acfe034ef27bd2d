"""Mutants that compute the same, each with the reason: they are looked at once and then known."""

from __future__ import annotations

from tests.mutation.mutants import Mutant

__all__ = ["reason_for"]

# (end of the file's name, the line as it stands, what is put in, why nothing can tell)
_KNOWN: tuple[tuple[str, str, str, str], ...] = (
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
    (
        "ops/adaptive_avg_pool2d.py",
        "if size == [1, 1] and min(input.shape[-2:]) < 1:",
        "(2)",
        "an image one pixel high or wide: its mean is what the pool to 1×1 is",
    ),
    (
        "ops/autograd.py",
        "saved = dict(zip(names, ctx.saved_tensors, strict=True))",
        "(False)",
        "a guard for who changes the factory: as many names as tensors are kept",
    ),
    (
        "ops/autograd.py",
        "moving, others = wiring.gradients[0][0], (None,) * (len(wiring.outputs) - 1)",
        "(-1)",
        "a tangent that reads grad_output belongs to an op of one gradient",
    ),
    (
        "ops/avg_pool2d/direct.py",
        "missing = [n - m for n, m in zip(g.padded_size(), spread.shape[2:], strict=True)]",
        "(n + m)",
        "more zeros at the far side, which the crop cuts off",
    ),
    (
        "ops/avg_pool2d/direct.py",
        "missing = [n - m for n, m in zip(g.padded_size(), spread.shape[2:], strict=True)]",
        "(False)",
        "a guard for who changes it: both have two sizes",
    ),
    (
        "ops/avg_pool2d/__init__.py",
        "if input.is_cuda and padding not in (0, (0, 0)):",
        "(-1)",
        "on a GPU alone, whether images are copied: a matter of speed",
    ),
    (
        "ops/conv2d/direct.py",
        "if g.stride == (1, 1) and min(reach) >= 0:",
        "(0)",
        "which of two exact formulas computes: a matter of speed",
    ),
    (
        "ops/per_sample.py",
        "if outputs < _FEW_OUTPUTS and not by_gram and copies == 1:",
        "(0)",
        "which of two exact formulas computes: a matter of speed",
    ),
    (
        "ops/registry.py",
        "if kwargs or len(args) < _OTHERS.get(self.op, 0):",
        "(-1)",
        "an op that is not declared has no defaults, and no call has fewer than no arguments",
    ),
    (
        "ops/avg_pool2d/reference.py",
        "sums = [cut(padded, rows, columns).sum((-2, -1)) for _, _, rows, columns in geometry.windows()]",
        "(2)",
        "x has four dimensions: the last but one is the third",
    ),
    (
        "ops/conv_relu_pool/fused.py",
        "return plan.on_gpu and not torch.is_grad_enabled()",
        "(torch.is_grad_enabled())",
        "on a GPU alone, which of two exact kernels computes",
    ),
    (
        "ops/conv_relu_pool/fused.py",
        "if torch.compiler.is_compiling():  # a graph for all sizes",
        "(not torch.compiler.is_compiling())",
        "which of two exact kernels computes: a matter of speed",
    ),
    (
        "ops/conv_relu_pool/fused.py",
        "return math.prod(pool.stride) >= 2",
        "(math.prod(pool.stride) < 2)",
        "which of two exact kernels computes: a matter of speed",
    ),
    (
        "ops/cross_entropy.py",
        "summed = torch.where(total == 0, torch.nan, summed / torch.where(total == 0, 1, total))",
        "(2)",
        "what is divided by where nothing counts: NaN is taken there, with a gradient of 0",
    ),
    (
        "ops/per_sample.py",
        "product = 3 * positions**2 if gram else outputs * weights",
        "(3)",
        "how large the slices of a batch are: a matter of memory",
    ),
)


def reason_for(mutant: Mutant) -> str:
    """Why ``mutant`` computes the same; "" where that is not known."""
    for file, text, after, reason in _KNOWN:
        if mutant.file.endswith(file) and mutant.text == text and mutant.after == after:
            return reason
    return ""
