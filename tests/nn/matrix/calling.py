"""Habits of calling: torch.func, tracers, threads and precisions."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from tests.nn.matrix.habit import HABITS, Habit, habit
from tests.nn.matrix.steps import Case, Results, buffers, gradients, loss_of, outputs, step


@habit("functional_call")
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


@habit("per-sample gradients")
def _per_sample(case: Case) -> Results:
    network = case.network.eval()
    parameters = {k: v.detach() for k, v in network.named_parameters()}

    def loss(parameters: Results, image: Tensor) -> Tensor:
        output = torch.func.functional_call(network, parameters, (image.unsqueeze(0),))
        return loss_of(output)

    return torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, case.images)


@habit("ensemble", measured=True)
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


@habit("forward mode")
def _forward_mode(case: Case) -> Results:
    network = case.network.eval()
    direction = case.images.flip(0)

    def call(images: Tensor) -> tuple[Tensor, ...]:
        output = network(images)
        return (output,) if isinstance(output, Tensor) else tuple(outputs_of(output))

    found, tangents = torch.func.jvp(call, (case.images,), (direction,))[:2]
    named = {f"tangent {i}": tangent for i, tangent in enumerate(tangents)}
    return {**outputs(found), **named}


@habit("gradient penalty")
def _penalty(case: Case) -> Results:
    torch.manual_seed(3)
    images = case.images.clone().requires_grad_()
    loss = loss_of(case.network(images))
    (grad,) = torch.autograd.grad(loss, images, create_graph=True)
    (loss + 10 * grad.square().sum()).backward()
    assert images.grad is not None
    return {"∂L/∂x": images.grad, **gradients(case.network), **buffers(case.network)}


# --- traced and compiled


@habit("fx", traced=True)
def _fx(case: Case) -> Results:
    traced = torch.fx.symbolic_trace(case.network)
    return step(traced, case.images)


@habit("feature extraction", traced=True)
def _features(case: Case) -> Results:
    from torchvision.models.feature_extraction import create_feature_extractor

    names = [name for name, _ in case.twin.named_children()][:2]
    extractor = create_feature_extractor(case.network, names)
    return step(extractor, case.images)


@habit("export", traced=True)
def _export(case: Case) -> Results:
    """In evaluation: the exported network computes the same, and can be differentiated."""
    program = torch.export.export(case.network.eval(), (case.images,))
    return step(program.module(), case.images)


@habit("export of any batch", traced=True)
def _export_any(case: Case) -> Results:
    sizes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(case.network.eval(), (case.images,), dynamic_shapes=sizes)
    with torch.no_grad():
        return outputs(program.module()(case.images.repeat(2, 1, 1, 1)[:3]))


@habit("jit trace", traced=True)
def _jit(case: Case) -> Results:
    traced: Any = torch.jit.trace(case.network.eval(), case.images, strict=False)
    return step(traced, case.images)


@habit("compile", traced=True)
def _compile(case: Case, *, backend: str = "eager", **options: Any) -> Results:
    torch.compiler.reset()
    compiled = torch.compile(case.network, backend=backend, fullgraph=True, **options)
    return step(compiled, case.images, case.network)


HABITS["compile aot_eager"] = Habit(partial(_compile, backend="aot_eager"), traced=True, slow=True)


@habit("compile dynamic", traced=True, slow=True)
def _compile_dynamic(case: Case) -> Results:
    torch.compiler.reset()
    compiled = torch.compile(case.network, backend="eager", dynamic=True)
    step(compiled, case.images.repeat(2, 1, 1, 1)[:3], case.network)
    case.network.zero_grad()
    return step(compiled, case.images, case.network)


# --- devices and precisions


@habit("two threads")
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


@habit("autocast", prepare=_draw_nothing, low_precision=True)
def _autocast(case: Case) -> Results:
    network = case.network.float()
    with torch.autocast("cpu", torch.bfloat16):
        return step(network, case.images.float())


@habit("float32", prepare=_draw_nothing, low_precision=True)
def _float32(case: Case) -> Results:
    return step(case.network.float(), case.images.float())
