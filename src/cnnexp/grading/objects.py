"""Students' classes: built with the sizes of a case, given its weights, asked for its gradients."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from cnnexp.grading.answers import Answer, as_array
from cnnexp.grading.binding import assign, call, meant
from cnnexp.grading.cases import Case
from cnnexp.grading.contract import Contract

_SIZES = {
    "in_channels": ("inchannels", "inputchannels", "cin", "inc", "inch", "channelsin"),
    "out_channels": (
        "outchannels",
        "outputchannels",
        "cout",
        "outc",
        "numfilters",
        "nfilters",
        "outch",
    ),
    "in_features": ("infeatures", "nin", "inputsize", "indim", "inputdim", "din", "insize"),
    "out_features": ("outfeatures", "nout", "outputsize", "outdim", "outputdim", "dout", "outsize"),
    "num_features": ("numfeatures", "channels", "c", "dim", "features", "numchannels", "d"),
    "kernel_size": ("kernelsize", "kernel", "ksize", "k", "filtersize", "size"),
}


def is_function(value: Any) -> bool:
    """Whether ``value`` is a subclass of torch's autograd Function."""
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(value, torch.autograd.Function)


def is_module(value: Any) -> bool:
    """Whether ``value`` is a subclass of torch's Module."""
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(value, torch.nn.Module)


def build(maker: Callable[..., Any], contract: Contract, values: dict[str, Any], case: Case) -> Any:
    """An object of the student's class with the sizes and settings of the case."""
    shapes = {name: value.shape for name, value in case.tensors.items()}
    sizes: dict[str, Any] = {}
    if "w" in shapes:
        w = shapes["w"]
        sizes |= {"in_channels": shapes["x"][1], "out_channels": w[0]}
        sizes |= {"in_features": shapes["x"][1], "out_features": w[0]}
        if len(w) == 4:
            pairs = isinstance(values.get("stride"), tuple)
            sizes["kernel_size"] = w[2] if w[2] == w[3] and not pairs else tuple(w[2:])
    if "gamma" in shapes:
        sizes["num_features"] = shapes["gamma"][0]
    settings = {name: values[name] for name in contract.settings}
    known = {**sizes, **settings}
    roles = {}
    given: set[str] = set()
    parameters = list(inspect.signature(maker).parameters.values())
    for parameter in parameters:
        word = parameter.name.lower().replace("_", "")
        by_size = next((s for s in sizes if word in _SIZES[s] and s not in given), None)
        argument = by_size or meant(parameter.name, [n for n in known if n not in given])
        if argument:
            roles[parameter.name] = argument
            given.add(argument)
    return call(maker, roles, known)


_ATTRIBUTES = {
    "w": ("w", "W", "weight", "weights", "kernel", "kernels", "filters", "filter"),
    "b": ("b", "B", "bias", "biases"),
    "gamma": ("gamma", "weight", "w", "scale"),
    "beta": ("beta", "bias", "b", "shift"),
}
_GRADIENTS = (
    "d{}",
    "d_{}",
    "grad_{}",
    "{}_grad",
    "d{}s",
    "grad{}",
    "dl_d{}",
    "dL_d{}",
    "dLd{}",
    "g{}",
)


def run_object(
    maker: Callable[..., Any], contract: Contract, values: dict[str, Any], case: Case
) -> tuple[Answer, Any]:
    """Forward and backward of a class without autograd; the gradients as a backward function gives them."""
    it = build(maker, contract, values, case)
    places = {}
    for name in contract.tensors:
        found = [a for a in _ATTRIBUTES.get(name, ()) if hasattr(it, a)]
        if found:
            places[name] = found[0]
            setattr(it, found[0], values[name])
    rest = [n for n in contract.tensors if n not in places]
    output = call(it.forward, assign(it.forward, rest, rest), values)
    answer = Answer(as_array(output[0] if isinstance(output, tuple) else output))
    known = ["grad_output", *rest]
    returned = call(it.backward, assign(it.backward, known, known), values)
    if isinstance(returned, (tuple, list, dict)) or not places:
        return answer, returned
    made = {contract.gradients[0]: returned}
    for name, attribute in places.items():
        made[name] = _gradient_of(it, attribute)
    return answer, made


def _gradient_of(it: Any, attribute: str) -> Any:
    """The gradient that an object keeps for one of its attributes."""
    spelled = [form.format(a) for a in (attribute, attribute.lower()) for form in _GRADIENTS]
    for name in spelled:
        if hasattr(it, name):
            return getattr(it, name)
    grads = getattr(it, "grads", None) or getattr(it, "gradients", None)
    if isinstance(grads, dict):
        return next((grads[n] for n in (*spelled, attribute) if n in grads), None)
    return None
