"""What one call of a layer leaves behind: enough for each sample's gradient, its norm, and a weighted sum.

For a layer's parameters w, sample n and the loss ℓ_n of that sample alone, g_n = ∂ℓ_n/∂w follows from the
layer's input x_n and from ∂ℓ_n/∂y_n, which the backward pass computes anyway. So norms and weighted sums,
which are what DP-SGD needs, take no gradient by sample:

    ‖g_n‖²         from x_n and ∂ℓ_n/∂y_n                        (:meth:`Call.squared_norms`)
    Σ_n c_n·g_n    is ∂L/∂w of x and c_n·∂ℓ_n/∂y_n               (:meth:`Call.weighted`)

Source: Lee & Kifer, "Scaling up Differentially Private Deep Learning with Fast Per-Example Gradient
Clipping" (2021); Bu et al., "Differentially Private Optimization on Large Foundation Models at Low Cost"
(2023), for keeping x and ∂ℓ/∂y instead of a second backward pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from cnnexp import ops
from cnnexp.geometry.convolution import Conv2dGeometry, conv2d_geometry
from cnnexp.kernels.cpu.norms import weighted_gradients, winners_gradients
from cnnexp.nn.conv import padded
from cnnexp.nn.per_sample.errors import PerSampleError
from cnnexp.ops.conv2d import direct, im2col, library
from cnnexp.ops.conv2d.function import grad_bias as conv_grad_bias
from cnnexp.ops.conv_relu_pool import fused, parts
from cnnexp.ops.fused_linear import of_parameters
from cnnexp.ops.linear import grad_bias as linear_grad_bias
from cnnexp.ops.linear import grad_weight as linear_grad_weight
from cnnexp.ops.per_sample import (
    SquaredNorms,
    block_squared_norms,
    conv2d_squared_norms,
    linear_squared_norms,
)
from cnnexp.ops.precision import widened
from cnnexp.ops.registry import NATIVE

__all__ = [
    "BlockCall",
    "Call",
    "ConvCall",
    "LinearCall",
    "OpaqueCall",
    "PerSample",
    "TanhBlockCall",
    "squared_norms_of",
]

PerSample = dict[str, Tensor]
_MOST_NUMBERS = 1 << 25
_FEW_OUTPUTS = 8  # of a group


class Call(ABC):
    """One call of ``layer``, whose parameters take no part in autograd meanwhile.

    Args:
        name: Of the layer in its network.
        layer: That is called.
        forward: Its own ``forward``.
        copies: K ≥ 1: rows n·K … n·K + K − 1 of a batch are the copies of sample n, whose gradients add up.

    Attributes:
        parameters: Those that train, by their names in the layer.
        kept: What the gradients need of the forward pass, as the backward pass finds it.
        grad_output: ∂L/∂y, once the backward pass has been here; None if it never comes here.
        anchor: A leaf on which the output depends, with a gradient of None: the first layer's output has no
            gradient else.
    """

    whole: ClassVar[bool] = False  # whether the parameters of the layers within are its own

    def __init__(
        self, name: str, layer: nn.Module, forward: Callable[..., Any], copies: int = 1
    ) -> None:
        self.name, self._forward, self.copies = name, forward, copies
        self.layer: Any = layer  # of the kinds that the subclass is for
        own = layer.named_parameters(recurse=self.whole)
        self.parameters = {name: p for name, p in own if p.requires_grad}
        self.kept: Sequence[Tensor] = ()
        self.grad_output: Tensor | None = None
        self.anchor = torch.zeros((), requires_grad=True)  # leads a backward pass to this call

    def run(self, *inputs: Any, **options: Any) -> tuple[Tensor, Sequence[Tensor]]:
        """The output of the layer, and what is to be kept."""
        self._options = options
        return self._forward(*inputs, **options), inputs

    def after(self, output: Tensor) -> Tensor:
        """What the layer gives, from what :meth:`run` gave and the gradient is noted of."""
        return output

    @property
    def gradient(self) -> Tensor:
        """∂L/∂y: (N·K, …)."""
        assert self.grad_output is not None  # whoever asks leaves out what the loss does not need
        return self.grad_output

    @property
    def samples(self) -> int:
        """N, how many samples the call was of."""
        return len(self.gradient) // self.copies

    @abstractmethod
    def rows(self, gradient: Tensor, *kept: Tensor) -> PerSample:
        r"""The gradients of R rows of ∂L/∂y and ``kept`` by the parameters' names: (R, \*shape)."""

    def per_sample(self, first: int, end: int) -> PerSample:
        r"""The gradients of the samples ``first`` … ``end`` − 1: (end − first, \*shape)."""
        part = slice(first * self.copies, end * self.copies)
        rows = self.rows(self.gradient[part], *[each[part] for each in self.kept])
        if self.copies == 1:
            return rows
        return {name: g.unflatten(0, (-1, self.copies)).sum(1) for name, g in rows.items()}

    def squared_norms(self) -> Tensor:
        """‖g_n‖² over the layer's parameters: (N,) float64."""
        return squared_norms_of(self.per_sample, self.samples, self.size)

    def _of(self, norms: SquaredNorms) -> Tensor:
        """What of ``norms`` is of parameters that train."""
        parts = [getattr(norms, name) for name in ("weight", "bias") if name in self.parameters]
        return torch.stack(parts).sum(0)

    @property
    def size(self) -> int:
        """How many numbers the gradient of one sample takes while it is computed."""
        return self.copies * sum(p.numel() for p in self.parameters.values())

    def weighted(self, factors: Tensor) -> Mapping[str, Tensor]:
        """Σ_n factors[n]·g_n by the parameters' names, from factors (N,).

        Here by a second forward and backward pass of the layer alone, for those without a formula.
        """
        with torch.enable_grad():
            output = self._forward(*self.kept, **self._options)
        sums = torch.autograd.grad(output, [*self.parameters.values()], self._scaled(factors))
        return dict(zip(self.parameters, sums, strict=True))

    def _scaled(self, factors: Tensor) -> Tensor:
        g = self.gradient
        by_row = factors.to(g).repeat_interleave(self.copies)
        return g * by_row.view(-1, *[1] * (g.dim() - 1))

    def _own(self, **gradients: Callable[[], Tensor]) -> dict[str, Tensor]:
        """Those of ``gradients`` whose parameter trains, computed."""
        return {name: make() for name, make in gradients.items() if name in self.parameters}


def squared_norms_of(
    per_sample: Callable[[int, int], PerSample], samples: int, size: int
) -> Tensor:
    """‖g_n‖² over all that ``per_sample`` gives of samples ``first`` … ``end`` − 1: (N,) float64.

    So many samples at a time that their gradients, of ``size`` numbers each, take 128 MB or less in float32.
    """
    step = max(1, _MOST_NUMBERS // max(1, size))
    parts = [
        sum_of_squares(per_sample(first, min(first + step, samples)))
        for first in range(0, samples, step)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def sum_of_squares(gradients: PerSample) -> Tensor:
    """‖g_n‖² over all of ``gradients``, each (N, …): (N,) float64."""
    parts = [g.flatten(1).double().square().sum(1) for g in gradients.values()]
    return torch.stack(parts).sum(0)


class LinearCall(Call):
    """Of ``torch.nn.Linear``; see ``cnnexp.ops.linear``."""

    def squared_norms(self) -> Tensor:
        """See :meth:`Call.squared_norms`."""
        return self._of(linear_squared_norms(self.gradient, self.kept[0], self.copies))

    def rows(self, gradient: Tensor, *kept: Tensor) -> PerSample:
        """See :meth:`Call.rows`."""
        g, x = gradient, _rounded(kept[0], gradient)
        return self._own(
            weight=lambda: linear_grad_weight(g, x, per_sample=True),
            bias=lambda: linear_grad_bias(g, per_sample=True),
        )

    def weighted(self, factors: Tensor) -> Mapping[str, Tensor]:
        """See :meth:`Call.weighted`."""
        g = self._scaled(factors)
        x = _rounded(self.kept[0], g)
        if getattr(self.layer, "algorithm", NATIVE) == "fused":
            of_weight, of_bias = of_parameters(g, x, self.layer.weight)
            return self._own(weight=lambda: of_weight, bias=lambda: of_bias)
        return self._own(weight=lambda: linear_grad_weight(g, x), bias=lambda: linear_grad_bias(g))


class ConvCall(Call):
    """Of ``torch.nn.Conv2d``; see ``cnnexp.ops.conv2d.direct``."""

    def squared_norms(self) -> Tensor:
        """See :meth:`Call.squared_norms`."""
        image, geometry = self._image(self.kept[0])
        return self._of(conv2d_squared_norms(self.gradient, image, geometry, self.copies))

    def _image(self, input: Tensor) -> tuple[Tensor, Conv2dGeometry]:
        conv = self.layer
        image, padding = padded(conv, input)
        geometry = conv2d_geometry(
            image, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups
        )
        return image, geometry

    def rows(self, gradient: Tensor, *kept: Tensor) -> PerSample:
        """See :meth:`Call.rows`."""
        g, (image, geometry) = gradient, self._image(kept[0])
        image = _rounded(geometry.add_extra(image), g)
        return self._own(
            weight=lambda: _weights_by_sample(g, image, geometry),
            bias=lambda: conv_grad_bias(g, per_sample=True),
        )

    def weighted(self, factors: Tensor) -> Mapping[str, Tensor]:
        """See :meth:`Call.weighted`."""
        g, (image, geometry) = self._scaled(factors), self._image(self.kept[0])
        image, grad_weight = _rounded(geometry.add_extra(image), g), self._grad_weight()
        return self._own(
            weight=lambda: grad_weight(g, image, geometry), bias=lambda: conv_grad_bias(g)
        )

    def _grad_weight(self) -> Callable[[Tensor, Tensor, Conv2dGeometry], Tensor]:
        """∂L/∂w as the layer's own algorithm computes it, to the bit but for what autocast rounds off."""
        name = getattr(self.layer, "algorithm", "native")
        if name == "native":
            return library.grad_weight
        name = ops.resolve_algorithm("conv2d", name)
        return ops.get_algorithm("conv2d", name).grad_weight or direct.grad_weight


def _rounded(input: Tensor, grad_output: Tensor) -> Tensor:
    """``input`` as autocast rounds it within an op: ∂L/∂y is of what it was rounded to."""
    return input.to(grad_output.dtype)


def _weights_by_sample(grad_output: Tensor, image: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂w of each sample: by products of matrices, but for groups of few outputs, whose matrices are thin.

    The article's last convolution, batch 128, float32: 0.3 of the time that it takes as a convolution of
    N groups.
    """
    thin = grad_output.size(1) // geometry.groups < _FEW_OUTPUTS
    grad_weight = direct.grad_weight if thin else im2col.grad_weight
    return grad_weight(grad_output, image, geometry, per_sample=True)


class BlockCall(ConvCall):
    """Of ``cnnexp.nn.ConvReLUPool``: fused, its gradients take the winners of the windows."""

    def run(self, *inputs: Any, **_options: Any) -> tuple[Tensor, Sequence[Tensor]]:
        """See :meth:`Call.run`."""
        layer, (image,) = self.layer, inputs
        padded_image, padding = padded(layer, image)
        window = layer.stride, padding, layer.dilation, layer.groups
        tensors, self.plan = (padded_image, layer.weight, layer.bias), None
        self._norms: SquaredNorms | None = None  # with the gradients of the samples, if it has them
        if layer.algorithm in ("fused", ops.AUTO):
            made = fused.with_code(*tensors, *window, layer.pool)
            if made is not None:
                output, code, self.plan = made
                return output, (padded_image, code)
        name = ops.resolve_algorithm("conv2d", layer.algorithm)
        return ops.conv2d(*tensors, *window, algorithm=name), (image,)

    def after(self, output: Tensor) -> Tensor:
        """See :meth:`Call.after`."""
        if self.plan is not None:
            return output
        name = self.layer.algorithm if self.layer.algorithm in parts.NAMES else "direct"
        return parts.relu_pool(output, self.layer.pool, name)

    def squared_norms(self) -> Tensor:
        """See :meth:`Call.squared_norms`."""
        if self.plan is None:
            return super().squared_norms()
        image, code = self.kept
        norms = block_squared_norms(self.gradient, code, image, self.plan, self.copies)
        self._norms = norms
        return self._of(norms)

    def rows(self, gradient: Tensor, *kept: Tensor) -> PerSample:
        """See :meth:`Call.rows`."""
        if self.plan is None:
            return super().rows(gradient, *kept)
        (image, code), plan = kept, self.plan
        if plan.sparse:
            arguments = widened(gradient), code, widened(plan.conv.add_extra(image))
            weights, biases = winners_gradients(*arguments, plan.conv, plan.pool)
            return self._own(
                weight=lambda: weights.to(gradient.dtype), bias=lambda: biases.to(gradient.dtype)
            )
        spread = fused.spread(gradient, code, plan)
        image = _rounded(plan.conv.add_extra(image), spread)
        return self._own(
            weight=lambda: _weights_by_sample(spread, image, plan.conv),
            bias=lambda: conv_grad_bias(spread, per_sample=True),
        )

    def weighted(self, factors: Tensor) -> Mapping[str, Tensor]:
        """See :meth:`Call.weighted`."""
        if self.plan is None:
            return super().weighted(factors)
        if (norms := self._norms) is not None and norms.gradients is not None:
            written = {"weight": norms.gradients, "bias": norms.biases}
            return {name: weighted_gradients(written[name], factors) for name in self.parameters}
        (image, code), plan, g = self.kept, self.plan, self._scaled(factors)
        image, spread = _rounded(image, g), fused.grad_image(g, code, plan)
        both = fused.grad_parameters(g, spread, code, image, plan)
        if both is not None:
            return self._own(weight=lambda: both[0], bias=lambda: both[1])
        assert spread is not None
        return self._own(
            weight=lambda: fused.grad_weight(spread, image, plan),
            bias=lambda: conv_grad_bias(spread),
        )


class TanhBlockCall(ConvCall):
    """Of ``cnnexp.nn.ConvTanhPool``: by its parts, as each sample's gradient is that of the convolution."""

    def run(self, *inputs: Any, **_options: Any) -> tuple[Tensor, Sequence[Tensor]]:
        """See :meth:`Call.run`."""
        layer, (image,) = self.layer, inputs
        padded_image, padding = padded(layer, image)
        window = layer.stride, padding, layer.dilation, layer.groups
        name = ops.resolve_algorithm("conv2d", layer.algorithm)
        return ops.conv2d(padded_image, layer.weight, layer.bias, *window, algorithm=name), (image,)

    def after(self, output: Tensor) -> Tensor:
        """See :meth:`Call.after`."""
        name = self.layer.algorithm if self.layer.algorithm in parts.NAMES else "direct"
        image = ops.tanh(output, algorithm=ops.resolve_algorithm("tanh", name))
        pool = self.layer.pool
        return image if pool is None else parts.pooled(image, pool, name)


class OpaqueCall(Call):
    """Of any other layer with parameters of its own, the layers within it included: by ``torch.func``."""

    whole = True

    def run(self, *inputs: Any, **options: Any) -> tuple[Tensor, Sequence[Tensor]]:
        """See :meth:`Call.run`."""
        if not all(isinstance(each, Tensor) for each in inputs):
            raise PerSampleError(
                f"{self.name} ({type(self.layer).__name__}) takes more than tensors, so that its gradients "
                f"cannot be told apart by sample; give it tensors of one row a sample, or freeze it "
                f"(parameters.frozen)"
            )
        return super().run(*inputs, **options)

    def rows(self, gradient: Tensor, *kept: Tensor) -> PerSample:
        """See :meth:`Call.rows`."""
        layer, options = self.layer, self._options

        def loss(parameters: dict[str, Tensor], g: Tensor, *inputs: Tensor) -> Tensor:
            alone = [each.unsqueeze(0) for each in inputs]
            output = functional_call(layer, parameters, tuple(alone), options)
            return (output * g.unsqueeze(0)).sum()

        parameters = {name: p.detach() for name, p in self.parameters.items()}
        each = vmap(grad(loss), in_dims=(None, 0, *[0] * len(kept)))
        try:
            return each(parameters, gradient, *kept)
        except RuntimeError as error:
            raise PerSampleError(
                f"{self.name} ({type(layer).__name__}): torch.func cannot tell its gradients apart by "
                f"sample ({str(error).splitlines()[0]}); build it of Linear, Conv2d, GroupNorm and "
                f"LayerNorm, or freeze it (parameters.frozen)"
            ) from error
