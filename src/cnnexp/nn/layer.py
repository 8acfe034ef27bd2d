"""The base of all layers over ``cnnexp.ops``: the algorithm that they compute with."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import fx, nn

from cnnexp import ops
from cnnexp.nn.deferred import Placeholder, computed
from cnnexp.nn.steps import Step
from cnnexp.ops.torch_internals import has_hooks


class Layer(nn.Module):
    """A mixin for a layer of ``torch.nn``, its twin, which it precedes among the bases.

    A layer defines ``compute``, the call of its op. With ``native`` it runs the twin's own ``forward``
    instead, at no cost of ours. ``torch.fx`` traces the layer as one node, as it does its twin.

    Args:
        *args, **kwargs: As for the layer of ``torch.nn``.
        algorithm: A name from ``cnnexp.ops.algorithm_names(op)``, or ``"auto"``.

    Raises:
        UnknownAlgorithmError: ``algorithm`` is not registered.
    """

    op: ClassVar[str]
    computes: ClassVar[tuple[str, ...]] = ("forward",)  # which of its methods call an op
    algorithm: str = ops.NATIVE  # until ``replace_layers`` or the constructor says another
    step: Step | None = None  # what it is to a block before it, where ``fuse_blocks`` found one

    def __init__(self, *args: Any, algorithm: str = "direct", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.algorithm = ops.get_algorithm(self.op, algorithm).name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the twin in ``torch.nn`` does, computed by the layer's algorithm."""
        if self.algorithm == ops.NATIVE:
            return super().forward(*args, **kwargs)
        return self.compute(*args, **kwargs)

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """Call the op with the layer's settings: each layer's own, for algorithms but ``native``."""
        raise NotImplementedError(
            f"{type(self).__name__} must define compute(), the call of its op"
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``forward`` with the hooks; where ``torch.fx`` traces, return the node for this layer."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, fx.Proxy):
                return traced(self, value.tracer, args, kwargs)
            if isinstance(value, Placeholder):
                return self._after(value, *args, **kwargs)
        if kwargs:
            kwargs = computed(kwargs)
        return super().__call__(*args, **kwargs)

    def _after(self, waits: Placeholder, *args: Any, **kwargs: Any) -> Any:
        """Take part in the block that ``waits``, one of ``args``, or run on what it is."""
        alone = len(args) == 1 and not kwargs and not has_hooks(self)
        if alone and self.step is not None:
            taken = waits.after(self.step, bool(getattr(self, "inplace", False)))
            if taken is not None:
                return taken
        return super().__call__(*computed(args), **computed(kwargs))

    def way_by(self, algorithm: str) -> str:
        """The algorithm that this layer takes where its network is to compute by ``algorithm``.

        Raises:
            UnknownAlgorithmError: No op at all has it.
        """
        return ops.resolve_algorithm(self.op, algorithm)

    def extra_repr(self) -> str:
        """Describe the layer's settings for ``repr``."""
        return ", ".join(filter(None, [super().extra_repr(), f"algorithm={self.algorithm}"]))


def traced(layer: nn.Module, tracer: Any, args: Any, kwargs: Any) -> Any:
    """The node of ``layer``, a leaf; the tracer would descend into a layer that is not ``torch.nn``'s."""

    def as_leaf(*args: Any, **kwargs: Any) -> fx.Proxy:
        return tracer.create_proxy("call_module", tracer.path_of_module(layer), args, kwargs)

    return tracer.call_module(layer, as_leaf, args, kwargs)


def layer_algorithms(network: nn.Module) -> dict[str, str]:
    """The algorithm of each layer of ``network`` over ``cnnexp.ops``, by the layer's name.

    Examples:
        >>> from torch import nn
        >>> from cnnexp.nn import layer_algorithms, replace_layers
        >>> layer_algorithms(replace_layers(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU()), "fft"))
        {'0': 'fft', '1': 'direct'}
    """
    return {
        name: layer.algorithm for name, layer in network.named_modules() if isinstance(layer, Layer)
    }
