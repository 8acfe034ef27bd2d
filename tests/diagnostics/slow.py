"""The probes' figures again, slowly: torch's own layers one by one, kept gradients, plain loops."""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning as L
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from cnnexp.nn import replace_layers
from cnnexp.training import Classifier


class Recorder(Callback):
    """Keep network, images and labels of each step, before and after it."""

    def __init__(self) -> None:
        self.steps: list[tuple[nn.Module, Tensor, Tensor]] = []
        self.after: list[nn.Module] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Classifier)
        images, labels = batch
        self.steps.append((_plain(pl_module), pl_module.normalise(images), labels))

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, Classifier)
        self.after.append(_plain(pl_module))


def _plain(module: Classifier) -> nn.Module:
    """A copy of the network of torch's own layers, in double precision."""
    network = copy.deepcopy(module.network)
    for layer in network.modules():
        layer._forward_hooks.clear()
        layer._forward_pre_hooks.clear()
    return replace_layers(network, "native").double()


def slow_figures(recorder: Recorder, step: int) -> dict[str, float]:
    """What the measurement of ``step`` should have logged, for a network of sequences of layers."""
    network, images, labels = recorder.steps[step]
    network = copy.deepcopy(network)  # a pass moves running statistics
    outputs: dict[str, Tensor] = {}
    squashed: dict[str, Tensor] = {}
    owner = ""
    x = images.double()
    for name, layer in network.named_modules():
        if any(layer.children()):
            continue
        if isinstance(layer, nn.Linear):
            x = x.flatten(1)
        x = layer(x)
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            owner = name
        if isinstance(layer, (nn.Tanh, nn.Sigmoid)):
            squashed[owner] = x.detach()
        if not isinstance(layer, nn.Dropout):
            x.retain_grad()
            outputs[owner] = x
    F.cross_entropy(x, labels).backward()
    norms = [float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None]
    found = {"grad/norm": math.sqrt(sum(norms))}
    for name, a in outputs.items():
        weight = network.get_parameter(f"{name}.weight")
        moved = recorder.after[step].get_parameter(f"{name}.weight")
        assert a.grad is not None
        assert weight.grad is not None
        units = a.detach().movedim(1, 0).flatten(1)
        update = float((moved - weight).detach().square().sum().sqrt())
        norm = float(weight.detach().square().sum().sqrt())
        found |= {
            f"grad/{name}/activation": float(a.grad.square().sum().sqrt()),
            f"grad/{name}/weight": float(weight.grad.square().sum().sqrt()),
            f"weight/{name}/norm": norm,
            f"weight/{name}/update": update,
            f"weight/{name}/update_ratio": update / norm,
            f"activation/{name}/mean": float(a.detach().mean()),
            f"activation/{name}/std": float(a.detach().std(correction=0)),
            f"activation/{name}/dead": sum(not unit.any() for unit in units) / len(units),
        }
    for name, value in squashed.items():
        activation = _after(network, name)
        slope = 1 - value**2 if isinstance(activation, nn.Tanh) else 4 * value * (1 - value)
        found[f"activation/{name}/saturated"] = float((slope < 0.1).double().mean())
    return found


def _after(network: nn.Module, name: str) -> nn.Module:
    """The first tanh or sigmoid behind the layer ``name``."""
    names = [n for n, _ in network.named_modules()]
    rest = [network.get_submodule(n) for n in names[names.index(name) :]]
    return next(m for m in rest if isinstance(m, (nn.Tanh, nn.Sigmoid)))
