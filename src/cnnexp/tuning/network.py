"""Choose the fastest algorithm for every layer of a network once, and pin it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.as_found import left_as_found
from cnnexp.nn.conversion import listed
from cnnexp.nn.layer import Layer
from cnnexp.nn.lazy import initialise_lazy
from cnnexp.tuning.auto import recorded_times

log = logging.getLogger(__name__)

_NATIVE = "native"  # torch's own backward, which every op has: safe where nothing was measured

Run = Callable[[nn.Module, Tensor], Any]


def choose_algorithms(network: nn.Module, images: Tensor, run: Run | None = None) -> dict[str, str]:
    """The fastest algorithm for each layer of ``network`` that is set to ``auto``.

    ``network`` itself is run, forward, once, in training mode, with its hooks; no backward pass is run.
    It is restored afterwards (see ``cnnexp.nn.as_found``), and so are the random states; only the values
    of its tensors are copied. Lazy layers are initialised first, as by any first pass. The times are
    those of calls of the ops with random tensors of the same kind.

    A layer that the pass does not call (unused, of another branch, of the evaluation) takes
    ``native``, torch's own backward, and a line of the log names it. A layer that it calls several
    times takes the algorithm that is the fastest for all calls together.

    Args:
        network: The network, as ``replace_layers(network, "auto")`` leaves it. If it is in training
            mode, its parts keep their modes; if it is in evaluation mode, it is put into training mode
            for the pass.
        images: A batch of the size, dtype, layout and device that the network will be trained on.
        run: Calls network and images; the place for autocast. None for a plain call.

    Returns:
        The algorithm of each layer by the layer's name, for :func:`pin_algorithms`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from cnnexp.nn import layer_algorithms, replace_layers
        >>> from cnnexp.tuning import choose_algorithms, pin_algorithms
        >>> network = replace_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh()), "auto")
        >>> chosen = choose_algorithms(network, torch.randn(2, 1, 8, 8))
        >>> list(chosen)
        ['0', '1']
        >>> pin_algorithms(network, chosen)
        >>> layer_algorithms(network) == chosen
        True
    """
    with torch.inference_mode(False), torch.compiler.set_stance("force_eager"):
        if images.is_inference():  # autograd cannot save tensors of inference mode
            images = images.clone()
        initialise_lazy(network, images)
        with left_as_found(network), torch.enable_grad():
            network.to(images.device)
            if not network.training:
                network.train()
            with _calls(network) as calls:
                network(images) if run is None else run(network, images)
    chosen = {name: _fastest(each) for name, each in calls.items() if each}
    unused = [name for name, each in calls.items() if not each]
    if unused:
        log.info(
            "backward auto: the forward pass in training does not call %s: native, torch's own "
            "backward, is kept there",
            listed(unused),
        )
    return {name: chosen.get(name, _NATIVE) for name in calls}


Call = tuple[str, Mapping[str, float]]


@contextmanager
def _calls(network: nn.Module) -> Iterator[dict[str, list[Call]]]:
    """Collect, inside the context, the choice and all algorithms' seconds for each call of an
    ``auto`` layer.
    """
    calls: dict[str, list[Call]] = {name: [] for name in _waiting(network)}
    inside: list[str] = []

    def record(_op: str, algorithm: str, seconds: Mapping[str, float]) -> None:
        if inside:
            calls[inside[-1]].append((algorithm, seconds))

    def named(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            inside.append(name)
            try:
                return forward(*arguments, **options)
            finally:
                inside.pop()

        return call

    for name, layer in _waiting(network).items():  # hooks would miss a direct call of forward
        vars(layer)["forward"] = named(name, layer.forward)
    with recorded_times(record):
        yield calls


def _fastest(calls: Sequence[Call]) -> str:
    """The algorithm, among those that take every call, whose calls take the least time together."""
    measured = [seconds for _, seconds in calls if seconds]
    if not measured:
        return calls[0][0]
    able = set.intersection(*map(set, measured))
    total = {name: sum(seconds[name] for seconds in measured) for name in sorted(able)}
    return min(total, key=total.__getitem__, default=_NATIVE)


def _waiting(network: nn.Module) -> dict[str, Layer]:
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, Layer) and layer.algorithm == ops.AUTO
    }


def pin_algorithms(network: nn.Module, algorithms: Mapping[str, str]) -> None:
    """Set the layers of ``network`` that are set to ``auto`` to ``algorithms``.

    Raises:
        ValueError: A name is not one of those layers, one of them is missing, or its op does not have
            the algorithm; nothing has been changed then.

    Examples:
        >>> from torch import nn
        >>> from cnnexp.nn import layer_algorithms, replace_layers
        >>> from cnnexp.tuning import pin_algorithms
        >>> network = replace_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh()), "auto")
        >>> pin_algorithms(network, {"0": "im2col", "1": "native"})
        >>> layer_algorithms(network)
        {'0': 'im2col', '1': 'native'}
    """
    layers = _waiting(network)
    if set(layers) != set(algorithms):
        raise ValueError(
            f"algorithms are given for the layers {', '.join(sorted(algorithms)) or 'none'}, but the "
            f"network has {', '.join(sorted(layers)) or 'none'}"
        )
    for name, algorithm in algorithms.items():
        ops.get_algorithm(layers[name].op, algorithm)
    for name, algorithm in algorithms.items():
        layers[name].algorithm = algorithm
