"""What a student's file has to offer for each op: names, order, settings, and where the derivation has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Contract:
    """The signature of an op as students write it.

    Attributes:
        op: Its name.
        tensors: The tensors of ``forward`` in their order.
        gradients: Those that have a gradient, in the order in which ``backward`` returns it.
        settings: The numbers of ``forward`` after the tensors, with what holds where they are not given.
        symbols: What the derivation calls each tensor.
        formulas: The right formula of the output ("y") and of each gradient.
        anchor: The heading of docs/derivation.md that derives it.
    """

    op: str
    tensors: tuple[str, ...]
    gradients: tuple[str, ...]
    settings: Mapping[str, Any]
    formulas: Mapping[str, str]
    anchor: str
    symbols: Mapping[str, str] = field(default_factory=dict)

    def symbol(self, name: str) -> str:
        """How a finding names the output or a gradient: ``"y"``, ``"∂L/∂w"``."""
        return "y" if name == "y" else f"∂L/∂{self.symbols.get(name, name)}"

    @property
    def arguments(self) -> tuple[str, ...]:
        """All arguments of ``forward``, tensors first."""
        return (*self.tensors, *self.settings)


_CONV_Y = "y[n,o,p,q] = b[o] + Σ_{c,u,v} x[n, c, p·s+u−p_h, q·s+v−p_w] · w[o,c,u,v]"
_CONV_X = (
    "∂L/∂x[n,c,i,j] = Σ_o Σ_{(p,u): p·s+u−p_h = i} Σ_{(q,v): q·s+v−p_w = j} g[n,o,p,q] · w[o,c,u,v]"
)
_CONV_W = "∂L/∂w[o,c,u,v] = Σ_{n,p,q} g[n,o,p,q] · x[n, c, p·s+u−p_h, q·s+v−p_w]"
_CONV_B = "∂L/∂b[o] = Σ_{n,p,q} g[n,o,p,q]"
_BLOCK = "with g → ∂L/∂z[place(p,q,k)] += g[p,q] · [k = k*] · [z > 0] before it: "

CONTRACTS: dict[str, Contract] = {
    contract.op: contract
    for contract in (
        Contract(
            "conv2d",
            ("x", "w", "b"),
            ("x", "w", "b"),
            {"stride": 1, "padding": 0, "dilation": 1, "groups": 1},
            {"y": _CONV_Y, "x": _CONV_X, "w": _CONV_W, "b": _CONV_B},
            "convolution",
        ),
        Contract(
            "max_pool2d",
            ("x",),
            ("x",),
            {"kernel_size": 2, "stride": None, "padding": 0},
            {
                "y": "y[n,c,p,q] = max_{u,v} x[n, c, p·s+u−p_h, q·s+v−p_w], over what lies on the image",
                "x": "∂L/∂x[n,c,i,j] = Σ_{(p,q): (i*,j*)(p,q) = (i,j)} g[n,c,p,q]",
            },
            "max-pooling",
        ),
        Contract(
            "avg_pool2d",
            ("x",),
            ("x",),
            {"kernel_size": 2, "stride": None, "padding": 0},
            {
                "y": "y[n,c,p,q] = (1/K²) Σ_{u,v} x[n, c, p·s+u−p_h, q·s+v−p_w], zeros of padding counted",
                "x": "∂L/∂x[n,c,i,j] = Σ_{(p,q): window (p,q) covers (i,j)} g[n,c,p,q] / K²",
            },
            "average-pooling",
        ),
        Contract(
            "relu",
            ("x",),
            ("x",),
            {},
            {"y": "y = max(x, 0)", "x": "∂L/∂x = g · [x > 0]"},
            "relu-the-linear-layer-and-the-loss",
        ),
        Contract(
            "linear",
            ("x", "w", "b"),
            ("x", "w", "b"),
            {},
            {
                "y": "y[n,o] = b[o] + Σ_k x[n,k] · w[o,k]",
                "x": "∂L/∂x = g·W",
                "w": "∂L/∂w = gᵀ·x",
                "b": "∂L/∂b[o] = Σ_n g[n,o]",
            },
            "relu-the-linear-layer-and-the-loss",
        ),
        Contract(
            "batch_norm",
            ("x", "gamma", "beta"),
            ("x", "gamma", "beta"),
            {"eps": 1e-5},
            {
                "y": "y = γ·x̂ + β,  x̂ = (x − μ)·r,  r = 1/√(σ² + ε),  σ² the mean of (x − μ)²",
                "x": "∂L/∂x = γ·r·(g − (Σ g)/M − x̂·(Σ g·x̂)/M), the sums over the M elements of a channel",
                "gamma": "∂L/∂γ = Σ g·x̂",
                "beta": "∂L/∂β = Σ g",
            },
            "relu-the-linear-layer-and-the-loss",
            {"gamma": "γ", "beta": "β"},
        ),
        Contract(
            "cross_entropy",
            ("logits", "target"),
            ("logits",),
            {},
            {
                "y": "L = −(1/N) Σ_n log softmax(z[n])[t[n]]",
                "logits": "∂L/∂z[n,k] = g · (softmax(z[n])[k] − [k = t[n]]) / N",
            },
            "relu-the-linear-layer-and-the-loss",
            {"logits": "z"},
        ),
        Contract(
            "conv_relu_pool",
            ("x", "w", "b"),
            ("x", "w", "b"),
            {"stride": 1, "padding": 0, "pool_kernel": 2, "pool_stride": None},
            {
                "y": "y[n,o,p,q] = max over the window of relu(z),  z = x ∗ w + b",
                "x": _BLOCK + _CONV_X.replace("g[", "∂L/∂z["),
                "w": _BLOCK + _CONV_W.replace("g[", "∂L/∂z["),
                "b": _BLOCK + _CONV_B.replace("g[", "∂L/∂z["),
            },
            "the-block-convolution-relu-and-pooling-as-one",
        ),
    )
}

# What students call the arguments, in small letters, without underscores
ALIASES: dict[str, tuple[str, ...]] = {
    "x": (
        *(
            "x",
            "input",
            "inputs",
            "inp",
            "a",
            "aprev",
            "image",
            "images",
            "img",
            "data",
            "xin",
            "z",
        ),
        *("features", "src"),
    ),
    "w": ("w", "weight", "weights", "kernel", "kernels", "filter", "filters", "k", "theta"),
    "b": ("b", "bias", "biases"),
    "gamma": ("gamma", "weight", "w", "scale", "g"),
    "beta": ("beta", "bias", "b", "shift"),
    "logits": (
        "logits",
        "x",
        "z",
        "scores",
        "input",
        "inputs",
        "inp",
        "pred",
        "yhat",
        "predictions",
    ),
    "target": ("target", "targets", "t", "y", "labels", "label", "classes", "ytrue"),
    "stride": ("stride", "strides", "s", "step"),
    "padding": ("padding", "pad", "p", "pads"),
    "dilation": ("dilation", "d", "rate"),
    "groups": ("groups", "group"),
    "kernel_size": (
        *(
            "kernelsize",
            "kernel",
            "size",
            "ksize",
            "k",
            "poolsize",
            "pool",
            "window",
            "windowsize",
            "f",
        ),
    ),
    "pool_kernel": ("poolkernel", "poolsize", "kernelsize", "poolkernelsize", "pool", "k", "poolk"),
    "pool_stride": ("poolstride", "ps", "pools"),
    "eps": ("eps", "epsilon", "e"),
    "grad_output": (
        *(
            "gradoutput",
            "gradoutputs",
            "dout",
            "dy",
            "g",
            "grad",
            "gradout",
            "upstream",
            "dl",
            "dldy",
        ),
        *(
            "dz",
            "da",
            "gy",
            "delta",
            "gradient",
            "upstreamgrad",
            "goutput",
            "gout",
            "outgrad",
            "dldout",
        ),
        *("dloss", "dlout", "dh", "ygrad", "grady"),
    ),
    "cache": ("cache", "ctx", "saved", "context", "memory", "store", "cached", "state"),
    "output": ("output", "out", "y", "probs", "probabilities", "softmax", "yhat", "fx"),
    "x_shape": ("xshape", "inputshape", "inshape", "shape", "inputsize"),
    "pool_settings": ("poolparam", "poolparams"),
    "settings": (
        *(
            "convparam",
            "poolparam",
            "bnparam",
            "params",
            "param",
            "hparams",
            "hparameters",
            "config",
        ),
        *("options", "settings"),
    ),
}


# Arguments that batch normalisation often has besides; what comes of them is not judged
RUNNING = ("running_mean", "running_var", "training", "momentum")


def plain(name: str) -> str:
    """A name as the aliases have it: small letters without underscores."""
    return name.lower().replace("_", "")
