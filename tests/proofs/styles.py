"""Right functions as other people write them: numpy, loops, in-place work, values on ctx, many outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["RIGHT"]

# pyright knows backward's parameters as (ctx, *grad_outputs)
# pyright: reportIncompatibleMethodOverride=false, reportSelfClsParameterName=false


def _draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    return torch.randn(*shape, generator=generator)


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


class ListOfTensors(nn.Module):
    def forward(self, parts: list[Tensor], scale: float = 2.0) -> dict[str, Tensor]:
        return {"all": scale * torch.cat(parts), "first": parts[0].square()}


class Normalised(nn.Module):
    """Holds a plain tensor, a buffer that it writes to, a frozen and a trained parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor([1.0, 2.0, 3.0])
        self.register_buffer("calls", torch.zeros(()))
        self.shift = nn.Parameter(torch.ones(3), requires_grad=False)
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return (x + self.shift) * self.scale * self.weight


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


def _sequential() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(0.5))


class Style(NamedTuple):
    """A right function, one call of it, and the aspects that it does not offer."""

    function: Callable[[], Any]
    call: list[Any]
    missing: tuple[str, ...] = ()
    name: str | None = None


_NO_VMAP = ("batched (vmap)",)
_FIRST_ONLY = ("second derivative", *_NO_VMAP)
_weight = torch.tensor([0.3, -0.7, 1.1], requires_grad=True)
_linear = nn.Linear(3, 2)
_mask = (_draw(4, 3) > 0).float()

RIGHT: dict[str, Style] = {
    "numpy sin": Style(lambda: NumpySin.apply, [_draw(5)], _FIRST_ONLY, "NumpySin"),
    "numpy throughout": Style(lambda: NumpyThroughout, [_draw(5)], _FIRST_ONLY, "NumpyThroughout"),
    "value on ctx": Style(lambda: ValueOnCtx.apply, [_draw(4)], _NO_VMAP),
    "intermediate on ctx": Style(lambda: IntermediateOnCtx.apply, [_draw(4)], _FIRST_ONLY),
    "saved statistics": Style(
        lambda: LayerNorm.apply, [_draw(3, 4), _draw(4), _draw(4) + 1], _FIRST_ONLY, "LayerNorm"
    ),
    "not static": Style(lambda: NotStatic.apply, [_draw(4)], _NO_VMAP, "NotStatic"),
    "in place inside": Style(lambda: InPlaceInside.apply, [_draw(4, 3)], _NO_VMAP),
    "declared in place": Style(lambda: DeclaredInPlace.apply, [_draw(4)], _NO_VMAP),
    "torch's in place": Style(lambda: functools.partial(F.relu, inplace=True), [_draw(5)]),
    "two outputs": Style(lambda: TwoOutputs.apply, [_draw(4), _draw(4) + 2], _NO_VMAP),
    "undefined gradients": Style(lambda: NothingMaterialised.apply, [_draw(4)], _NO_VMAP),
    "indices beside": Style(lambda: WithIndices.apply, [_draw(3, 4)], _NO_VMAP),
    "a statistic beside": Style(lambda: WithDetachedStatistic.apply, [_draw(4)], _NO_VMAP),
    "integer input": Style(
        lambda: Embedding.apply, [torch.tensor([2, 0, 2]), _draw(3, 2)], _NO_VMAP
    ),
    "classes": Style(
        lambda: CrossEntropy.apply, [_draw(4, 3), torch.tensor([0, 2, 1, 1])], _FIRST_ONLY
    ),
    "a mask of floats": Style(
        lambda: MaskIsNoInput.apply, [_draw(4, 3), _mask], ("first derivative", *_NO_VMAP)
    ),
    "needs_input_grad": Style(lambda: AsksWhatIsNeeded.apply, [_draw(3, 4), _draw(4, 2)], _NO_VMAP),
    "setup_context": Style(lambda: NewStyle.apply, [_draw(4), 3]),
    "loops": Style(
        lambda: LoopConvolution.apply,
        [_draw(2, 2, 4, 5), _draw(3, 2, 3, 3), _draw(3)],
        _NO_VMAP,
        "LoopConvolution",
    ),
    "im2col in numpy": Style(
        lambda: Im2colNumpy.apply, [_draw(2, 2, 4, 5), _draw(3, 2, 3, 3)], _FIRST_ONLY
    ),
    "float32 inside": Style(lambda: FloatInside.apply, [_draw(5)], _NO_VMAP),
    "float32 only": Style(
        lambda: FloatOnly.apply, [_draw(5)], ("dtype and shape", *_NO_VMAP), "FloatOnly"
    ),
    "contiguous only": Style(
        lambda: ContiguousOnly.apply, [_draw(2, 3, 2)], ("dtype and shape", *_NO_VMAP)
    ),
    "complex": Style(
        lambda: ComplexConjugate.apply, [torch.complex(_draw(3), _draw(3) + 1)], _NO_VMAP
    ),
    "saved x_hat": Style(
        lambda: BatchNormNumpyStyle.apply, [_draw(4, 3), _draw(3), _draw(3) + 1], _FIRST_ONLY
    ),
    "a list, a dict": Style(ListOfTensors, [[_draw(3), _draw(2)]], (), "ListOfTensors"),
    "buffers and frozen": Style(Normalised, [_draw(2, 3)], (), "Normalised"),
    "tied weights": Style(Tied, [_draw(2, 3)]),
    "batch norm and dropout": Style(_sequential, [_draw(2, 1, 5, 5)], _NO_VMAP, "Sequential"),
    "a module in a closure": Style(lambda: lambda x: _linear(x).sin(), [_draw(4, 3)]),
    "a tensor in a closure": Style(lambda: lambda x: x * _weight, [_draw(2, 3)]),
    "a method": Style(lambda: _linear.forward, [_draw(4, 3)], (), "Linear"),
    "at a kink": Style(lambda: torch.relu, [torch.tensor([0.0, 1.0, -1.0])], (), "relu"),
    "equals of a maximum": Style(
        lambda: functools.partial(F.max_pool2d, kernel_size=2), [torch.ones(1, 1, 4, 4)]
    ),
    "close to its pole": Style(lambda: torch.log, [torch.tensor([1e-4, 1e-3, 5.0])], (), "log"),
    "large and small": Style(
        lambda: torch.nn.functional.softplus, [torch.tensor([-80.0, 1e-6, 300.0])]
    ),
    "a lambda of a Function": Style(
        lambda: lambda x: NewStyle.apply(x, 2), [_draw(3)], (), "NewStyle"
    ),
    "nothing": Style(lambda: torch.sin, [_draw(0)]),
    "a number": Style(lambda: torch.sin, [torch.tensor(0.3)]),
    "many elements": Style(lambda: torch.tanh, [_draw(60, 60)]),
}
