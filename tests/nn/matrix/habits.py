"""What people do with networks: each habit is one function of a :class:`Case`, entered by name.

A habit returns tensors by name; those of the network in any way are compared with those of torch's own
layers. Where torch itself raises, nothing is asked of ours.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from tests.nn.matrix.steps import Case, Results, buffers, gradients, loss_of, outputs, step

__all__ = ["HABITS", "Habit"]


@dataclass(frozen=True)
class Habit:
    """One habit.

    Attributes:
        run: Case → tensors by name.
        prepare: Done to the network of torch's layers, before it is converted.
        low_precision: Whether errors are compared with torch's own, from the truth in float64.
        measured: Whether ``auto`` measures within it, instead of knowing what to choose.
        traced: Whether Python is turned into a graph, which takes seconds.
        slow: Whether it takes many seconds: in the suite with ``auto`` alone.
    """

    run: Callable[[Case], Results]
    prepare: Callable[[nn.Module], None] | None = None
    low_precision: bool = False
    measured: bool = False
    traced: bool = False
    slow: bool = False


HABITS: dict[str, Habit] = {}


def _habit(name: str, **options: Any) -> Callable[[Callable[[Case], Results]], Any]:
    def enter(run: Callable[[Case], Results]) -> Callable[[Case], Results]:
        HABITS[name] = Habit(run, **options)
        return run

    return enter


@_habit("step")
def _step(case: Case) -> Results:
    return step(case.network, case.images)


@_habit("eval step")
def _eval_step(case: Case) -> Results:
    return step(case.network.eval(), case.images)


@_habit("two steps")
def _two_steps(case: Case) -> Results:
    """Accumulated gradients, momentum, and a second step on the new parameters."""
    optimizer = torch.optim.SGD(case.network.parameters(), lr=1e-3, momentum=0.9)
    for scale in (1.0, 0.5):
        step(case.network, scale * case.images)
    optimizer.step()
    optimizer.zero_grad()
    return step(case.network, case.images.flip(0))


@_habit("inference")
def _inference(case: Case) -> Results:
    """Looked at in evaluation, between two steps of training."""
    before = step(case.network, case.images)
    network, results = case.network.eval(), {}
    for context in (torch.inference_mode, torch.no_grad):
        with context():
            found = outputs(network(case.images))
        results |= {f"{context.__name__} {name}": tensor.clone() for name, tensor in found.items()}
    return {**results, **before, **step(network.train(), case.images)}


@_habit("batch of one")
def _one(case: Case) -> Results:
    return step(case.network.eval(), case.images[:1])


@_habit("channels_last")
def _channels_last(case: Case) -> Results:
    network = case.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return step(network, case.images.contiguous(memory_format=torch.channels_last))


@_habit("strided images")
def _strided(case: Case) -> Results:
    """Images cut out of others, mirrored and turned: no layout that has a name."""
    wide = torch.cat([case.images, case.images.flip(3)], 3)[..., ::2]
    return step(case.network, wide.transpose(2, 3))


# --- results that are changed in place


def _activations_in_place(network: nn.Module) -> None:
    for layer in network.modules():  # Dropout in place after a ReLU is refused by torch
        if hasattr(layer, "inplace") and not isinstance(layer, nn.Dropout):
            layer.inplace = True  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]


@_habit("activations in place", prepare=_activations_in_place)
def _in_place(case: Case) -> Results:
    return step(case.network, case.images)


_OWNERS = (  # layers whose results torch lets one change: it has not saved them
    *(nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.Dropout, nn.GELU),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)


def _add_in_place(layer: nn.Module, inputs: Any, output: Tensor) -> None:
    output += 0.01


def _change_layers(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, _OWNERS):
            layer.register_forward_hook(_add_in_place)


@_habit("layers' results changed in place", prepare=_change_layers)
def _changed(case: Case) -> Results:
    return step(case.network, case.images)


@_habit("pools' results changed in place")
def _changed_pools(case: Case) -> Results:
    """The hooks come after the conversion: a pooling may be part of a block by then."""
    for name, layer in case.twin.named_modules():
        if isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
            case.network.get_submodule(name).register_forward_hook(_add_in_place)
    return step(case.network, case.images)


# --- memory


@_habit("checkpoint", measured=True)
def _checkpoint(case: Case, *, use_reentrant: bool = False) -> Results:
    for child in case.network.children():
        if not list(child.children()):
            continue  # torch itself fails where an in-place ReLU is a region of its own
        child.forward = partial(checkpoint, child.forward, use_reentrant=use_reentrant)
    return step(case.network, case.images)


HABITS["reentrant checkpoint"] = Habit(partial(_checkpoint, use_reentrant=True), measured=True)


@_habit("checkpoint of the whole", measured=True)
def _checkpoint_whole(case: Case) -> Results:
    call = partial(checkpoint, case.network, use_reentrant=False)
    return step(call, case.images, case.network)


@_habit("saved on the CPU")
def _saved(case: Case) -> Results:
    with torch.autograd.graph.save_on_cpu():
        return step(case.network, case.images)


@_habit("backward twice")
def _backward_twice(case: Case) -> Results:
    torch.manual_seed(3)
    images = case.images.clone().requires_grad_()
    loss = loss_of(case.network(images))
    loss.backward(retain_graph=True)
    loss.backward()
    assert images.grad is not None
    return {"∂L/∂x": images.grad, **gradients(case.network), **buffers(case.network)}


# --- which layers learn


def _share(network: nn.Module) -> None:
    """Let every second of the layers that are alike be the one before it."""
    seen: dict[Any, nn.Module] = {}
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, _OWNERS) or not list(layer.parameters()):
                key = repr(layer) if not list(layer.children()) else id(layer)
                if key in seen:
                    setattr(parent, name, seen.pop(key))
                else:
                    seen[key] = layer


@_habit("shared layers", prepare=_share)
def _shared(case: Case) -> Results:
    return step(case.network, case.images)


def _freeze(network: nn.Module, *, every: int = 0) -> None:
    """Freeze each ``every``-th parameter, or by 0 the first half of the network's layers."""
    layers = [layer for layer in network.modules() if not list(layer.children())]
    for layer in layers if every else layers[: len(layers) // 2]:
        for index, parameter in enumerate(layer.parameters(recurse=False)):
            parameter.requires_grad_(bool(every) and (index + len(parameter)) % every != 0)


@_habit("frozen half", prepare=_freeze)
def _frozen(case: Case) -> Results:
    """As fine-tuning does it: batch normalisation of the frozen layers stays in evaluation."""
    for layer in case.network.modules():
        if isinstance(layer, nn.BatchNorm2d) and not layer.weight.requires_grad:
            layer.eval()
    return step(case.network, case.images, image_grad=False)


@_habit("frozen here and there", prepare=partial(_freeze, every=2))
def _scattered(case: Case) -> Results:
    return step(case.network, case.images)


@_habit("only the images")
def _only_images(case: Case) -> Results:
    return step(case.network.requires_grad_(False), case.images)


# --- copies and states


@_habit("deepcopy")
def _deepcopy(case: Case) -> Results:
    """Of a network that has been used: its copy goes on, it stays as it is."""
    step(case.network, case.images)
    made = copy.deepcopy(case.network)
    made.zero_grad()
    results = step(made, case.images)
    return {**results, **{f"original {k}": v for k, v in buffers(case.network).items()}}


@_habit("pickle")
def _pickle(case: Case) -> Results:
    file = io.BytesIO()
    torch.save(pickle.loads(pickle.dumps(case.network)), file)
    file.seek(0)
    return step(torch.load(file, weights_only=False), case.images)


@_habit("state dict there and back")
def _state(case: Case) -> Results:
    """A trained state goes to torch's network, is trained there, and comes back."""
    step(case.network, case.images)
    file = io.BytesIO()
    torch.save(case.network.state_dict(), file)
    file.seek(0)
    case.twin.load_state_dict(torch.load(file, weights_only=True))
    step(case.twin, case.images)
    case.network.load_state_dict(case.twin.state_dict(), assign=True)
    case.network.zero_grad()
    return step(case.network, case.images)


def _normalise_weights(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.utils.parametrizations.weight_norm(layer)


@_habit("parametrised before", prepare=_normalise_weights)
def _parametrised_before(case: Case) -> Results:
    return step(case.network, case.images)


@_habit("parametrised after")
def _parametrised_after(case: Case) -> Results:
    _normalise_weights(case.network)
    return step(case.network, case.images)


@_habit("pruned")
def _pruned(case: Case) -> Results:
    for layer in list(case.network.modules()):
        if isinstance(layer, nn.Conv2d):
            prune.l1_unstructured(layer, "weight", 0.3)
    return step(case.network, case.images)


def _no_activations_in_place(network: nn.Module) -> None:
    for layer in network.modules():
        if hasattr(layer, "inplace"):
            layer.inplace = False  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]


@_habit("hooks", prepare=_no_activations_in_place)
def _hooks(case: Case) -> Results:
    """Forward and backward hooks look at every layer, in the order in which they are called."""
    seen: Results = {}

    def forward(name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen[f"forward {name}"] = output.detach().clone()

    def backward(name: str, layer: nn.Module, grad_input: Any, grad_output: Any) -> None:
        seen[f"backward {name}"] = grad_output[0].clone()

    for name, layer in case.network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear, nn.MaxPool2d)):
            layer.register_forward_hook(partial(forward, name))
            layer.register_full_backward_hook(partial(backward, name))
    before = step(case.network, case.images)
    return {**before, **{k: v for k, v in seen.items() if k.split()[-1] in _own_outputs(case)}}


def _own_outputs(case: Case) -> set[str]:
    """Names of the layers that have outputs of their own in every way: not parts of a block."""
    blocks = {name for name, layer in case.twin.named_modules() if isinstance(layer, nn.Sequential)}
    return {name for name, _ in case.twin.named_modules() if name.rpartition(".")[0] not in blocks}


# --- other ways to call


@_habit("functional_call")
def _functional(case: Case) -> Results:
    parameters = {k: v.detach() for k, v in case.network.named_parameters()}

    def loss(parameters: Results, images: Tensor) -> tuple[Tensor, Results]:
        state = buffers(case.network)  # torch writes into no buffer from outside of the function
        output = torch.func.functional_call(case.network, (parameters, state), (images,))
        return loss_of(output), {**outputs(output), **state}

    torch.manual_seed(3)
    found: Any = torch.func.grad_and_value(loss, argnums=(0, 1), has_aux=True)(
        parameters, case.images
    )
    (grads, image_grad), (_, results) = found[0], found[1]
    named = {f"∂L/∂{name}": grad for name, grad in grads.items()}
    return {**results, **named, "∂L/∂x": image_grad}


@_habit("per-sample gradients")
def _per_sample(case: Case) -> Results:
    network = case.network.eval()
    parameters = {k: v.detach() for k, v in network.named_parameters()}

    def loss(parameters: Results, image: Tensor) -> Tensor:
        output = torch.func.functional_call(network, parameters, (image.unsqueeze(0),))
        return loss_of(output)

    return torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, case.images)


@_habit("ensemble", measured=True)
def _ensemble(case: Case) -> Results:
    """Two networks as one, by ``stack_module_state`` and vmap."""
    other = copy.deepcopy(case.network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    parameters, state = torch.func.stack_module_state([case.network, other])  # pyright: ignore[reportArgumentType]
    skeleton = copy.deepcopy(case.network).to("meta")

    def call(parameters: Results, state: Results, images: Tensor) -> Any:
        output = torch.func.functional_call(skeleton, (parameters, state), (images,))
        return output if isinstance(output, Tensor) else tuple(outputs_of(output))

    torch.manual_seed(3)
    found = torch.vmap(call, (0, 0, None), randomness="different")(parameters, state, case.images)
    loss_of(found).backward()
    grads = {f"∂L/∂{k}": v.grad for k, v in parameters.items() if v.grad is not None}
    return {**outputs(found), **grads, **state}


def outputs_of(output: Any) -> Any:
    return output.values() if isinstance(output, dict) else output


@_habit("forward mode")
def _forward_mode(case: Case) -> Results:
    network = case.network.eval()
    direction = case.images.flip(0)

    def call(images: Tensor) -> tuple[Tensor, ...]:
        output = network(images)
        return (output,) if isinstance(output, Tensor) else tuple(outputs_of(output))

    found, tangents = torch.func.jvp(call, (case.images,), (direction,))
    named = {f"tangent {i}": tangent for i, tangent in enumerate(tangents)}
    return {**outputs(found), **named}


@_habit("gradient penalty")
def _penalty(case: Case) -> Results:
    torch.manual_seed(3)
    images = case.images.clone().requires_grad_()
    loss = loss_of(case.network(images))
    (grad,) = torch.autograd.grad(loss, images, create_graph=True)
    (loss + 10 * grad.square().sum()).backward()
    assert images.grad is not None
    return {"∂L/∂x": images.grad, **gradients(case.network), **buffers(case.network)}


# --- traced and compiled


@_habit("fx", traced=True)
def _fx(case: Case) -> Results:
    traced = torch.fx.symbolic_trace(case.network)
    return step(traced, case.images)


@_habit("feature extraction", traced=True)
def _features(case: Case) -> Results:
    from torchvision.models.feature_extraction import create_feature_extractor

    names = [name for name, _ in case.twin.named_children()][:2]
    extractor = create_feature_extractor(case.network, names)
    return step(extractor, case.images)


@_habit("export", traced=True)
def _export(case: Case) -> Results:
    """In evaluation: the exported network computes the same, and can be differentiated."""
    program = torch.export.export(case.network.eval(), (case.images,))
    return step(program.module(), case.images)


@_habit("export of any batch", traced=True)
def _export_any(case: Case) -> Results:
    sizes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(case.network.eval(), (case.images,), dynamic_shapes=sizes)
    with torch.no_grad():
        return outputs(program.module()(case.images.repeat(2, 1, 1, 1)[:3]))


@_habit("jit trace", traced=True)
def _jit(case: Case) -> Results:
    traced: Any = torch.jit.trace(case.network.eval(), case.images, strict=False)
    return step(traced, case.images)


@_habit("compile", traced=True)
def _compile(case: Case, *, backend: str = "eager", **options: Any) -> Results:
    torch.compiler.reset()
    compiled = torch.compile(case.network, backend=backend, fullgraph=True, **options)
    return step(compiled, case.images, case.network)


HABITS["compile aot_eager"] = Habit(partial(_compile, backend="aot_eager"), traced=True, slow=True)


@_habit("compile dynamic", traced=True, slow=True)
def _compile_dynamic(case: Case) -> Results:
    torch.compiler.reset()
    compiled = torch.compile(case.network, backend="eager", dynamic=True)
    step(compiled, case.images.repeat(2, 1, 1, 1)[:3], case.network)
    case.network.zero_grad()
    return step(compiled, case.images, case.network)


# --- devices and precisions


@_habit("two threads")
def _threads(case: Case) -> Results:
    """As DataParallel does it: replicas that share their parameters, side by side."""
    replicas = [copy.copy(case.network.eval()) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda call, images: call(images), replicas, case.images.split(1)))
    loss_of(found).backward()
    return {**outputs(found), **gradients(case.network)}


def _draw_nothing(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, (nn.Dropout, StochasticDepth)):
            layer.p = 0.0


@_habit("autocast", prepare=_draw_nothing, low_precision=True)
def _autocast(case: Case) -> Results:
    network = case.network.float()
    with torch.autocast("cpu", torch.bfloat16):
        return step(network, case.images.float())


@_habit("float32", prepare=_draw_nothing, low_precision=True)
def _float32(case: Case) -> Results:
    return step(case.network.float(), case.images.float())
