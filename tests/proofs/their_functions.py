"""Right autograd Functions as other people write them: numpy, loops, in-place work, values on ctx."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# pyright knows backward's parameters as (ctx, *grad_outputs)
# pyright: reportIncompatibleMethodOverride=false, reportSelfClsParameterName=false


class NumpySin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad_output * torch.from_numpy(np.cos(x.detach().numpy()))


class NumpyThroughout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.array = x.detach().numpy()
        return torch.as_tensor(ctx.array**3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return torch.as_tensor(grad_output.numpy() * 3 * ctx.array**2)


class ValueOnCtx(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x
        return x.exp()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output * ctx.x.exp()


class IntermediateOnCtx(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.sigmoid = 1 / (1 + (-x).exp())
        return x * ctx.sigmoid

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        s = ctx.sigmoid
        return grad_output * (s + s * (1 - s) * torch.log(s / (1 - s)))


class LayerNorm(torch.autograd.Function):
    """Saves intermediate values beside an input: its second derivative is silently incomplete."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
        mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        rstd = (var + eps).rsqrt()
        ctx.save_for_backward(x, gamma, mean, rstd)
        return (x - mean) * rstd * gamma + beta

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, mean, rstd = ctx.saved_tensors
        normed = (x - mean) * rstd
        g = grad_output * gamma
        rest = g - g.mean(-1, keepdim=True) - normed * (g * normed).mean(-1, keepdim=True)
        return rest * rstd, (grad_output * normed).sum(0), grad_output.sum(0), None


class NotStatic(torch.autograd.Function):
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: N805
        ctx.save_for_backward(x)
        return x.square()

    def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # noqa: N805
        return 2 * ctx.saved_tensors[0] * grad_output


class InPlaceInside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone()
        y.clamp_(min=0).mul_(3)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        grad = grad_output.clone()
        grad[ctx.saved_tensors[0] == 0] = 0
        return grad.mul_(3)


class DeclaredInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return 2 * grad_output


class TwoOutputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, y)
        return x * y, x - y

    @staticmethod
    def backward(ctx: Any, grad_product: Tensor, grad_gap: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        return grad_product * y + grad_gap, grad_product * x - grad_gap


class NothingMaterialised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        return x.sin(), x.cos()

    @staticmethod
    def backward(ctx: Any, of_sin: Tensor | None, of_cos: Tensor | None) -> Tensor | None:
        (x,) = ctx.saved_tensors
        grad = None if of_sin is None else of_sin * x.cos()
        if of_cos is not None:
            grad = -of_cos * x.sin() if grad is None else grad - of_cos * x.sin()
        return grad


class WithIndices(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = x.max(-1)
        ctx.mark_non_differentiable(indices)
        ctx.save_for_backward(indices)
        ctx.shape = x.shape
        return values, indices

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor, _: Any) -> Tensor:
        (indices,) = ctx.saved_tensors
        grad = grad_values.new_zeros(ctx.shape)
        return grad.scatter(-1, indices[..., None], grad_values[..., None])


class WithDetachedStatistic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        norm = x.norm()
        ctx.mark_non_differentiable(norm)
        return 2 * x, norm

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, _: Any) -> Tensor:
        return 2 * grad_output


class Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, index: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = table.shape[0]
        return table[index]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, Tensor]:
        (index,) = ctx.saved_tensors
        grad = grad_output.new_zeros(ctx.rows, grad_output.shape[-1])
        return None, grad.index_add(0, index, grad_output)


class CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        log = logits - logits.logsumexp(1, keepdim=True)
        ctx.save_for_backward(log.exp(), target)
        return -log[torch.arange(len(target)), target].mean()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        p, target = ctx.saved_tensors
        hot = F.one_hot(target, p.shape[1]).to(p.dtype)
        return grad_output * (p - hot) / len(target), None


class MaskIsNoInput(torch.autograd.Function):
    """A mask of floats takes no gradient: the backward returns None for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        return grad_output * ctx.saved_tensors[0], None


class AsksWhatIsNeeded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, w = ctx.saved_tensors
        return (
            grad_output @ w.t() if ctx.needs_input_grad[0] else None,
            x.t() @ grad_output if ctx.needs_input_grad[1] else None,
        )


class NewStyle(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, power: int) -> Tensor:
        return x**power

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        x, ctx.power = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.power * x ** (ctx.power - 1) * grad_output, None


class LoopConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        k = w.shape[-1]
        rows, columns = x.shape[2] - k + 1, x.shape[3] - k + 1
        y = x.new_zeros(len(x), len(w), rows, columns)
        for i in range(rows):
            for j in range(columns):
                y[:, :, i, j] = torch.einsum("nckl,ockl->no", x[:, :, i : i + k, j : j + k], w) + b
        return y

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, w = ctx.saved_tensors
        k = w.shape[-1]
        grad_x, grad_w = torch.zeros_like(x), torch.zeros_like(w)
        for i in range(grad_output.shape[2]):
            for j in range(grad_output.shape[3]):
                g = grad_output[:, :, i, j]
                grad_x[:, :, i : i + k, j : j + k] += torch.einsum("no,ockl->nckl", g, w)
                grad_w += torch.einsum("no,nckl->ockl", g, x[:, :, i : i + k, j : j + k])
        return grad_x, grad_w, grad_output.sum((0, 2, 3))


class Im2colNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        image, kernel = x.detach().numpy(), w.detach().numpy()
        windows = np.lib.stride_tricks.sliding_window_view(image, kernel.shape[2:], (2, 3))
        ctx.windows, ctx.kernel, ctx.shape = windows, kernel, image.shape
        return torch.from_numpy(np.einsum("ncpqkl,ockl->nopq", windows, kernel))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        g = grad_output.numpy()
        grad_w = np.einsum("nopq,ncpqkl->ockl", g, ctx.windows)
        k, grad_x = ctx.kernel.shape[-1], np.zeros(ctx.shape, g.dtype)
        for i in range(k):
            for j in range(k):
                part = np.einsum("nopq,oc->ncpq", g, ctx.kernel[:, :, i, j])
                grad_x[:, :, i : i + g.shape[2], j : j + g.shape[3]] += part
        return torch.from_numpy(grad_x), torch.from_numpy(grad_w)


class FloatInside(torch.autograd.Function):
    """Computes in float32 whatever it is given, and returns the dtype that it was given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.float().tanh().to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (grad_output.float() * (1 - x.float().tanh() ** 2)).to(grad_output.dtype)


class FloatOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError(f"this kernel takes float32, not {x.dtype}")
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output * ctx.saved_tensors[0].cos()


class ContiguousOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.view(len(x), -1) * 2

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output.view(ctx.shape) * 2


class ComplexConjugate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z * z

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output * (2 * ctx.saved_tensors[0]).conj()


class BatchNormNumpyStyle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        mean = x.mean(0)
        inverse = 1 / (x.var(0, unbiased=False) + 1e-5).sqrt()
        x_hat = (x - mean) * inverse
        ctx.save_for_backward(x_hat, gamma, inverse)
        return gamma * x_hat + beta

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_hat, gamma, inverse = ctx.saved_tensors
        n, g = len(grad_output), grad_output * gamma
        grad = inverse / n * (n * g - g.sum(0) - x_hat * (g * x_hat).sum(0))
        return grad, (grad_output * x_hat).sum(0), grad_output.sum(0)
