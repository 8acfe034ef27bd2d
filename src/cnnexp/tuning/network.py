"""Choose the algorithm of every layer of a network by what it does to the whole step, and pin it."""

from __future__ import annotations

import hashlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cnnexp import ops
from cnnexp.as_found import left_as_found
from cnnexp.kernels.compilation import clock
from cnnexp.nn.conversion import listed
from cnnexp.nn.done import is_done
from cnnexp.nn.fuse_linears import in_runs, members_of, settle_runs
from cnnexp.nn.heads import settle_blocks
from cnnexp.nn.layer import Layer
from cnnexp.nn.lazy import initialise_lazy
from cnnexp.tuning.auto import situation
from cnnexp.tuning.calls import Calls, Shares, calls_of, slight_ops, times_of
from cnnexp.tuning.choices import ChoiceFile
from cnnexp.tuning.few_images import SURELY, faster_as_a_whole, few_of
from cnnexp.tuning.greedy import choose, promises
from cnnexp.tuning.step import Step

log = logging.getLogger(__name__)

# seconds: for the calls alone and, of what is left, for the steps
_BUDGET = 8.0
_FORWARDS = 3  # that a step takes as long as: a backward has two products for each of the forward's
BUSY = 0.8  # the share of the time that must have been this thread's for a choice to be kept

Run = Callable[[nn.Module, Tensor], Any]
Forward = Callable[[Tensor], Any]


@dataclass(frozen=True)
class StepChoice:
    """The choice for a network.

    Attributes:
        layers: The algorithm of each layer by the layer's name, for :func:`pin_algorithms`.
        ratio: The time of a step (forward and backward) by that of torch's own for every layer; 1.0
            where that is the choice.
    """

    layers: Mapping[str, str]
    ratio: float

    def __str__(self) -> str:
        """Return what was chosen and what it gains, in a line."""
        if not self.layers:
            return "nothing to choose"
        counts = Counter(self.layers.values()).most_common()
        chosen = ", ".join(f"{name} ×{count}" for name, count in counts)
        takes = "is torch's own" if self.ratio == 1.0 else f"takes {self.ratio:.2f} × torch's own"
        return f"the step {takes}: {chosen}"


def choose_step(network: nn.Module, images: Tensor, run: Run | None = None) -> StepChoice:
    """The algorithm for each layer of ``network`` set to ``auto`` that makes its training step the fastest.

    The unit is the step of the network itself: forward in training mode, a scalar like a loss, backward.
    The choice begins with ``native``, torch's own, for every layer. Layers are grouped by op and by the
    algorithm that is promised to be the fastest by the times of their calls alone; a group is taken if the
    step gains by it, in pairs of steps one after the other; and what is chosen in the end must beat
    torch's own, else that is kept.

    Where a step takes long, a few images of the batch are measured, and steps of the whole batch have the
    last word. It takes at most some ten seconds, or one look more where a step takes seconds, once for each
    network, size of the batch and machine: the choice is kept in the user's cache, unless other programs
    disturbed the measurement. ``network`` itself is run, in training mode, with its hooks, on
    ``images``: once, forward, where the choice is known. It is restored
    after each step (see ``cnnexp.as_found``), and so are the random states in the end; only the values
    of its tensors are copied. Lazy layers are initialised first, as by any first pass.

    A layer that the pass does not call (unused, of another branch, of the evaluation) takes
    ``native``, and a line of the log names it. On a CPU so do, without being measured, the layers of ops that
    take next to nothing of the forward pass, less than a fiftieth all together.

    Args:
        network: The network, as ``replace_layers(network, "auto")`` leaves it. If it is in training
            mode, its parts keep their modes; if it is in evaluation mode, it is put into training mode
            for the pass.
        images: A batch of the size, dtype, layout and device that the network will be trained on.
        run: Calls network and images; the place for autocast. None for a plain call.
    """
    with measurable(network, images) as (batch, renew):
        layers = waiting_layers(network)
        if not layers:
            return StepChoice({}, 1.0)
        forward = network if run is None else partial(run, network)
        return _known_or_measured(network, layers, forward, renew, batch)


@contextmanager
def measurable(network: nn.Module, images: Tensor) -> Iterator[tuple[Tensor, Callable[[], None]]]:
    """Steps of ``network`` on ``images`` may be run inside the context, after which it is as it was.

    The context's value is the batch, fit for autograd, and what makes the network ready for its next step:
    restored, in training mode, on the batch's device.
    """
    settle_blocks(network)
    with torch.inference_mode(False), _not_compiled():
        if images.is_inference():  # autograd cannot save tensors of inference mode
            images = images.clone()
        initialise_lazy(network, images)
        with left_as_found(network) as restore, torch.enable_grad():

            def renew() -> None:
                restore()
                network.to(images.device)
                if not network.training:
                    network.train()

            yield images, renew


def _not_compiled() -> AbstractContextManager[Any]:
    """What is compiled in a network runs as written; torch's compiler is not imported for that (0.6 s).

    A network that calls ``torch.compile`` in its first pass, before anything else in the process did, is
    measured compiled.
    """
    if "torch._dynamo.eval_frame" not in sys.modules:  # nothing has been compiled
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def choose_algorithms(network: nn.Module, images: Tensor, run: Run | None = None) -> dict[str, str]:
    """The algorithms of :func:`choose_step`, whose arguments these are, by the layers' names.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from cnnexp.nn import layer_algorithms, replace_layers
        >>> from cnnexp.tuning import choose_algorithms, pin_algorithms
        >>> network = replace_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU()), "auto")
        >>> chosen = choose_algorithms(network, torch.randn(2, 1, 8, 8))
        >>> list(chosen)
        ['0', '1']
        >>> pin_algorithms(network, chosen)
        >>> layer_algorithms(network) == chosen
        True
    """
    return dict(choose_step(network, images, run).layers)


def _known_or_measured(
    network: nn.Module,
    layers: Mapping[str, Layer],
    forward: Forward,
    renew: Callable[[], None],
    images: Tensor,
) -> StepChoice:
    renew()
    calls, before = calls_of(layers, partial(forward, images))
    unused = [name for name, each in calls.items() if not each]
    if unused:
        log.info(
            "backward auto: the forward pass in training does not call %s: native, torch's own "
            "backward, is kept there",
            listed(unused),
        )
    kinds = [(name, [call.key for call in each]) for name, each in calls.items()]
    about = hashlib.sha256(f"{type(network).__qualname__} {kinds}".encode()).hexdigest()
    text = situation(f"the step of {type(network).__name__} {about}", images.device)
    file = ChoiceFile()
    known = file.get_step(text)
    if known is not None and _fits(known[0], layers):
        return StepChoice(*known)
    undisturbed = watch("backward auto")
    found = _measured(network, layers, forward, renew, images, before)
    if undisturbed():
        file.put_step(text, found.layers, found.ratio)
    else:
        file.forget()
    kept = file.get_step(text)  # of another process, where one was faster
    return StepChoice(*kept) if kept is not None and _fits(kept[0], layers) else found


def watch(what: str) -> Callable[[], bool]:
    """Start to watch the time; what it returns says whether it was this thread's, and tells where not."""
    begin, computing = time.perf_counter(), time.thread_time()

    def undisturbed() -> bool:
        share = (time.thread_time() - computing) / max(time.perf_counter() - begin, 1e-9)
        if share >= BUSY:  # this thread computes all the time, or waits busily for others that do
            return True
        log.info(
            "%s: other programs took the processor for %.0f %% of that time, so what was "
            "measured is not kept: the next run measures again",
            *(what, 100 * (1 - share)),
        )
        return False

    return undisturbed


def _fits(algorithms: Mapping[str, str], layers: Mapping[str, Layer]) -> bool:
    return algorithms.keys() == layers.keys() and all(
        algorithms[name] in ops.algorithm_names(layer.op) for name, layer in layers.items()
    )


def _measured(
    network: nn.Module,
    layers: Mapping[str, Layer],
    forward: Forward,
    renew: Callable[[], None],
    images: Tensor,
    before: Shares,
) -> StepChoice:
    """The choice by the clock, as far as the budget goes; ``before`` are the shares of an earlier pass."""
    begin = clock()
    log.info(
        "backward auto: measuring the network's step (once for each network, batch and machine)"
    )
    base = dict.fromkeys(layers, ops.NATIVE)
    few, (calls, shares) = _measured_on(layers, forward, renew, images)
    renew()
    # of a device that computes on its own, the share of the time that its calls take says nothing
    slight = slight_ops(before, shares) if images.device.type == "cpu" else set[str]()
    times = times_of(layers, calls, partial(forward, few), _BUDGET, slight)
    groups = promises({name: layer.op for name, layer in layers.items()}, times)
    left = max(1.0, _BUDGET - (clock() - begin))
    step = Step(network, layers, partial(forward, few), renew, images.device)
    try:
        chosen, ratio = choose(base, groups, step.seconds, left)
        if few is not images and chosen != base:
            whole = Step(network, layers, partial(forward, images), renew, images.device)
            ratio = faster_as_a_whole(whole.seconds, chosen, base)
            chosen, ratio = (chosen, ratio) if ratio < SURELY else (base, 1.0)
    except Exception as error:
        # of other people's networks, in a backward pass of no loss of theirs
        log.warning("backward auto: the step cannot be measured here, native is kept: %s", error)
        chosen, ratio = base, 1.0
    log.debug("backward auto: measured in %.1f s", clock() - begin)
    return StepChoice(chosen, round(ratio, 4))


def _measured_on(
    layers: Mapping[str, Layer], forward: Forward, renew: Callable[[], None], images: Tensor
) -> tuple[Tensor, tuple[Calls, Shares]]:
    """The images that are measured, and the calls of each layer for them."""

    def looked() -> tuple[tuple[Calls, Shares], float]:
        renew()
        start = clock()
        return calls_of(layers, partial(forward, images)), _FORWARDS * (clock() - start)

    calls, seconds = looked()
    if few_of(images, seconds) is not images:  # something else may have disturbed it
        seconds = min(seconds, looked()[1])
    few = few_of(images, seconds)
    if few is not images:
        renew()
        try:
            return few, calls_of(layers, partial(forward, few))
        except Exception as error:  # of a network that takes its own size of batch alone
            log.debug("backward auto: %d images cannot be measured", len(few), exc_info=error)
    return images, calls


def waiting_layers(network: nn.Module) -> dict[str, Layer]:
    """The layers of ``network`` that are set to ``auto``, by name; of a run its first alone, as one op."""
    within = in_runs(network)
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, Layer) and layer.algorithm == ops.AUTO and layer not in within
    }


def pin_algorithms(network: nn.Module, algorithms: Mapping[str, str]) -> None:
    """Set the layers of ``network`` that are set to ``auto`` to ``algorithms``.

    Those of layers that are part of a block are left out: the block had fewer when they were chosen.

    Raises:
        ValueError: A name is not one of those layers, one of them is missing, or its op does not have
            the algorithm; nothing has been changed then.

    Examples:
        >>> from torch import nn
        >>> from cnnexp.nn import layer_algorithms, replace_layers
        >>> from cnnexp.tuning import pin_algorithms
        >>> network = replace_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU()), "auto")
        >>> pin_algorithms(network, {"0": "im2col", "1": "native"})
        >>> layer_algorithms(network)
        {'0': 'im2col', '1': 'native'}
    """
    waiting, within = waiting_layers(network), members_of(network)
    done = {name for name, layer in network.named_modules() if is_done(layer)}
    algorithms = {name: each for name, each in algorithms.items() if name not in done}
    # of a run the first has the choice, unless a choice of before, or of layers looked at, has one for each
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, Layer) and name in (algorithms if layer in within else waiting)
    }
    if set(layers) != set(algorithms):
        raise ValueError(
            f"algorithms are given for the layers {listed(sorted(algorithms)) or 'none'}, but the "
            f"network has {listed(sorted(layers)) or 'none'}"
        )
    for name, algorithm in algorithms.items():
        ops.get_algorithm(layers[name].op, algorithm)
    for name, algorithm in algorithms.items():
        layers[name].algorithm = algorithm
    settle_runs(network)
