"""The calls that a backward is tried with: geometries that tell mistakes apart, and the smallest ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass
class Case:
    """One call: its tensors (float64; classes int64), its settings, and what is sent back.

    Attributes:
        op: The op.
        tensors: By their names in the contract.
        settings: All settings of the contract.
        features: What is special about it, in words that complete "only …".
        small: Whether it is a candidate for the smallest counterexample.
        kink: Whether there are ties or zeros, where several gradients are right.
        right: The right output ("y") and gradients by name; set by :func:`cnnexp.grading.right.solve`.
        grad_output: g, of the output's shape; set there as well.
        judged: Which gradients count here; None for all.
        number: Its place among the cases of its op.
    """

    op: str
    tensors: dict[str, Array]
    settings: dict[str, Any]
    features: tuple[str, ...] = ()
    small: bool = False
    kink: bool = False
    right: dict[str, Array] = field(default_factory=dict)
    grad_output: Array = field(default_factory=lambda: np.zeros(0))
    judged: tuple[str, ...] | None = None
    number: int = 0

    def describe(self) -> str:
        """The call in one line: shapes and settings."""
        shapes = ", ".join(f"{n} {'×'.join(map(str, t.shape))}" for n, t in self.tensors.items())
        used = {n: v for n, v in self.settings.items() if v is not None and n != "eps"}
        return shapes + "".join(f", {name} {value}" for name, value in used.items())


# (N, C, O, H, W, Kh, Kw), settings
_CONV: tuple[tuple[tuple[int, ...], dict[str, int]], ...] = (
    ((1, 1, 1, 4, 4, 2, 2), {}),
    ((1, 2, 3, 5, 4, 3, 3), {}),
    ((3, 1, 1, 4, 5, 2, 2), {}),
    ((3, 2, 2, 5, 4, 2, 3), {}),
    ((2, 2, 2, 4, 4, 3, 3), {"padding": 1}),
    ((1, 2, 3, 7, 7, 3, 3), {"stride": 2}),
    ((2, 1, 2, 6, 7, 3, 3), {"stride": 2}),
    ((2, 3, 2, 4, 6, 3, 3), {"padding": 1}),
    ((2, 2, 2, 6, 5, 3, 3), {"stride": 2, "padding": 2}),
    ((1, 2, 1, 8, 7, 2, 2), {"stride": 3}),
    ((2, 2, 2, 3, 3, 1, 1), {}),
    ((2, 3, 3, 3, 3, 3, 3), {}),
    ((2, 2, 3, 7, 6, 2, 2), {"dilation": 2}),
    ((2, 4, 2, 5, 4, 2, 2), {"groups": 2}),
)
_SMALL_CONV = tuple(
    ((n, c, o, h, h, k, k), {"stride": s, "padding": p})
    for n, c, o, h, k, s, p in (
        *(
            (1, 1, 1, 2, 1, 1, 0),
            (1, 1, 1, 2, 2, 1, 0),
            (2, 1, 1, 1, 1, 1, 0),
            (1, 1, 2, 1, 1, 1, 0),
        ),
        *(
            (1, 2, 1, 1, 1, 1, 0),
            (1, 1, 1, 3, 2, 1, 0),
            (1, 2, 2, 1, 1, 1, 0),
            (2, 1, 1, 2, 2, 1, 0),
        ),
        *(
            (1, 1, 1, 2, 2, 1, 1),
            (1, 1, 1, 3, 1, 2, 0),
            (1, 1, 1, 3, 2, 2, 0),
            (1, 1, 1, 3, 2, 2, 1),
        ),
        *(
            (1, 1, 1, 4, 2, 2, 0),
            (1, 1, 1, 3, 3, 1, 1),
            (2, 2, 3, 2, 2, 1, 0),
            (1, 2, 3, 3, 2, 1, 0),
        ),
        *((1, 1, 1, 5, 3, 2, 0), (1, 1, 1, 5, 2, 2, 0), (2, 2, 2, 3, 2, 1, 1)),
    )
)
# (N, C, H, W), settings
_POOL: tuple[tuple[tuple[int, ...], dict[str, int]], ...] = (
    ((1, 1, 4, 4), {"kernel_size": 2, "stride": 2}),
    ((1, 1, 4, 4), {"kernel_size": 2, "stride": 1}),
    ((2, 3, 4, 6), {"kernel_size": 2, "stride": 2}),
    ((1, 2, 5, 5), {"kernel_size": 3, "stride": 1}),
    ((2, 2, 7, 6), {"kernel_size": 3, "stride": 2}),
    ((2, 2, 5, 7), {"kernel_size": 2, "stride": 2}),
    ((2, 1, 7, 8), {"kernel_size": 2, "stride": 3}),
    ((3, 2, 6, 5), {"kernel_size": 3, "stride": 3}),
    ((2, 2, 5, 4), {"kernel_size": 3, "stride": 1, "padding": 1}),
    ((1, 2, 6, 6), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((2, 2, 4, 4), {"kernel_size": 2, "stride": 2, "padding": 1}),
)
_SMALL_POOL = tuple(
    ((n, c, h, w), {"kernel_size": k, "stride": s, "padding": p})
    for n, c, h, w, k, s, p in (
        *(
            (1, 1, 1, 1, 1, 1, 0),
            (1, 1, 2, 2, 2, 2, 0),
            (2, 1, 2, 2, 2, 2, 0),
            (1, 2, 2, 2, 2, 2, 0),
        ),
        *(
            (1, 1, 3, 3, 2, 1, 0),
            (1, 1, 2, 4, 2, 2, 0),
            (1, 1, 4, 2, 2, 2, 0),
            (1, 1, 3, 3, 2, 2, 0),
        ),
        *(
            (1, 1, 2, 2, 2, 2, 1),
            (1, 1, 4, 4, 2, 2, 0),
            (1, 1, 4, 4, 3, 1, 0),
            (1, 1, 5, 5, 3, 2, 0),
        ),
        *(
            (1, 1, 4, 4, 1, 3, 0),
            (1, 1, 5, 5, 2, 3, 0),
            (2, 2, 3, 3, 2, 1, 0),
            (1, 1, 3, 3, 3, 1, 1),
        ),
    )
)
_FEATURES = {
    "batch": "with more than one image",
    "channels": "with more than one channel",
    "stride": "with a stride above 1",
    "padding": "with padding",
    "dilation": "with dilation",
    "groups": "with groups",
    "overlap": "where windows overlap",
    "gap": "where windows leave gaps",
    "rectangular": "on images that are not square",
    "left over": "where the last window leaves rows or columns over",
    "pairs": "where the numbers of input and output channels differ",
}


def cases_of(op: str, taken: frozenset[str] | None = None) -> list[Case]:
    """All cases of ``op``: the probing ones first, then the small ones, smallest first.

    Args:
        op: The op.
        taken: The settings that the student's forward takes; cases that need another are left out.
    """
    makers = {"conv2d": _conv, "max_pool2d": _pool, "avg_pool2d": _pool, "relu": _relu}
    makers |= {"linear": _linear, "batch_norm": _norm, "cross_entropy": _loss}
    makers |= {"conv_relu_pool": _block}
    rng = np.random.default_rng(20)
    found = list(makers[op](op, rng))
    found.sort(key=lambda case: (case.small, _size(case) if case.small else 0))
    for number, case in enumerate(found):
        case.number = number
    return found if taken is None else [case for case in found if fits(case, taken)]


def fits(case: Case, taken: frozenset[str]) -> bool:
    """Whether a forward that takes the settings ``taken`` can compute the case."""
    from cnnexp.grading.contract import CONTRACTS

    normal = dict(CONTRACTS[case.op].settings)
    if case.op in ("max_pool2d", "avg_pool2d"):
        normal["stride"] = case.settings["kernel_size"]
    normal["pool_stride"] = case.settings.get("pool_kernel")
    return all(
        name in taken or value == normal[name] or value is None
        for name, value in case.settings.items()
    )


def middling(op: str, taken: frozenset[str]) -> Case:
    """A call of a middling size, for time and memory; with g, but without right results."""
    rng = np.random.default_rng(3)
    plain = next(case for case in cases_of(op, taken) if not case.kink)
    sizes = {
        "conv2d": ((4, 3, 16, 16), (8, 3, 3, 3)),
        "conv_relu_pool": ((4, 3, 16, 16), (8, 3, 3, 3)),
        "linear": ((64, 128), (64, 128)),
        "cross_entropy": ((128, 10), ()),
    }
    x, w = sizes.get(op, ((8, 8, 16, 16), ()))
    names = list(plain.tensors)
    shapes = {names[0]: x, "w": w, "b": w[:1], "gamma": x[1:2], "beta": x[1:2]}
    tensors = {name: rng.standard_normal(shapes.get(name, ())) for name in names}
    if op == "cross_entropy":
        tensors["target"] = rng.integers(0, x[1], x[0])
    settings = dict(plain.settings)
    output = {
        "conv2d": (4, 8, 14, 14),
        "conv_relu_pool": (4, 8, 7, 7),
        "linear": (64, 64),
        "cross_entropy": (),
    }.get(op, x)
    if op in ("max_pool2d", "avg_pool2d"):
        k = settings["kernel_size"] = 2
        settings |= {"stride": k, "padding": 0}
        output = (*x[:2], x[2] // 2, x[3] // 2)
    return Case(op, tensors, settings, grad_output=np.asarray(rng.standard_normal(output)))


def _size(case: Case) -> int:
    return sum(tensor.size for tensor in case.tensors.values())


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], small: bool) -> Array:
    if not small:
        return rng.standard_normal(shape)
    return rng.integers(-3, 4, shape).astype(np.float64)


def _distinct(rng: np.random.Generator, shape: tuple[int, ...], small: bool) -> Array:
    """Whole numbers of which no two are equal if ``small``, so that each window has one winner."""
    if not small:
        return rng.standard_normal(shape)
    size = int(np.prod(shape))
    return (rng.permutation(size) - size // 3).reshape(shape).astype(np.float64)


def _features(shape: tuple[int, ...], kernel: tuple[int, int], **settings: int) -> tuple[str, ...]:
    n, c, h, w = shape
    stride, padding, dilation = (settings.get(k, d) for k, d in _GEOMETRY)
    spans = [dilation * (k - 1) + 1 for k in kernel]
    left = [(side + 2 * padding - span) % stride for side, span in zip((h, w), spans, strict=True)]
    places = [(side + 2 * padding - s) // stride + 1 for side, s in zip((h, w), spans, strict=True)]
    several = max(places) > 1
    there = {
        "batch": n > 1,
        "channels": c > 1,
        "stride": stride > 1,
        "padding": padding > 0,
        "dilation": dilation > 1,
        "groups": settings.get("groups", 1) > 1,
        "overlap": several and stride < max(spans),
        "gap": stride > max(kernel),
        "rectangular": h != w,
        "left over": any(left),
        "pairs": settings.get("out", c) != c,
    }
    return tuple(words for key, words in _FEATURES.items() if there[key])


_GEOMETRY = (("stride", 1), ("padding", 0), ("dilation", 1))


def _conv(op: str, rng: np.random.Generator) -> Iterator[Case]:
    normal = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    for small, rows in ((False, _CONV), (True, _SMALL_CONV), (True, _SMALL_CONV)):
        for (n, c, o, h, w, kh, kw), changed in rows:
            settings = normal | changed
            tensors = {
                "x": _numbers(rng, (n, c, h, w), small),
                "w": _numbers(rng, (o, c // settings["groups"], kh, kw), small),
                "b": _numbers(rng, (o,), small),
            }
            features = _features((n, c, h, w), (kh, kw), **settings, out=o)
            yield Case(op, tensors, settings, features, small)


def _pool(op: str, rng: np.random.Generator) -> Iterator[Case]:
    for small, rows in ((False, _POOL), (True, _SMALL_POOL), (True, _SMALL_POOL)):
        for shape, changed in rows:
            settings = {"padding": 0} | changed
            k = settings["kernel_size"]
            features = _features(shape, (k, k), **settings)
            yield Case(op, {"x": _distinct(rng, shape, small)}, settings, features, small)
    if op == "max_pool2d":
        for shape, small in (((2, 2, 4, 4), False), ((1, 1, 4, 6), False), ((1, 1, 2, 2), True)):
            x = np.ones(shape) if small else rng.integers(0, 2, shape).astype(np.float64)
            settings = {"kernel_size": 2, "stride": 2, "padding": 0}
            yield Case(
                op, {"x": x}, settings, ("where elements of a window are equal",), small, True
            )


def _relu(op: str, rng: np.random.Generator) -> Iterator[Case]:
    for shape in ((5,), (2, 3), (3, 4), (2, 3, 4, 5)):
        yield Case(op, {"x": rng.standard_normal(shape)}, {})
    x = np.array([[-1.5, 0.0, 2.0], [0.0, -0.5, 0.5]])
    yield Case(op, {"x": x}, {}, ("at x = 0",), kink=True)
    for values in itertools.product((-2.0, 1.0, 3.0), repeat=2):
        yield Case(op, {"x": np.array([values])}, {}, small=True)
        yield Case(op, {"x": np.array([values[:1]])}, {}, small=True)


def _linear(op: str, rng: np.random.Generator) -> Iterator[Case]:
    sizes = ((4, 3, 2), (1, 3, 2), (3, 3, 3), (2, 1, 3), (3, 2, 1), (5, 2, 4))
    small = ((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 1), (1, 2, 2), (2, 2, 2), (2, 2, 3))
    for is_small, rows in ((False, sizes), (True, small), (True, small)):
        for n, c, o in rows:
            shapes = {"x": (n, c), "w": (o, c), "b": (o,)}
            tensors = {name: _numbers(rng, shape, is_small) for name, shape in shapes.items()}
            features = (*(("with more than one image",) if n > 1 else ()),)
            yield Case(op, tensors, {}, features, is_small)


def _norm(op: str, rng: np.random.Generator) -> Iterator[Case]:
    shapes = ((4, 3, 2, 5), (2, 2, 3, 3), (5, 3, 2, 2), (3, 1, 2, 4), (2, 4, 3, 2))
    small = ((2, 1, 1, 1), (2, 1, 1, 2), (2, 2, 1, 2), (2, 2, 2, 2))
    for is_small, rows in ((False, shapes), (True, small), (True, small), (True, small)):
        for number, shape in enumerate(rows):
            tensors = {
                "x": _distinct(rng, shape, is_small) * (1 if is_small else 1.7)
                + 0.5 * (not is_small),
                "gamma": rng.integers(1, 4, shape[1]) * (1.0 if is_small else 0.7),
                "beta": _numbers(rng, shape[1:2], is_small),
            }
            eps = 1e-5 if is_small or number % 2 == 0 else 0.3
            features = ("where ε is not small",) if eps > 0.1 else ()
            yield Case(op, tensors, {"eps": eps}, features, is_small)


def _loss(op: str, rng: np.random.Generator) -> Iterator[Case]:
    small = ((1, 2), (2, 2), (1, 3), (2, 3))
    for is_small, rows in (
        (False, ((4, 3), (1, 4), (3, 3), (5, 2), (2, 6))),
        *((True, small),) * 2,
    ):
        for n, c in rows:
            tensors = {"logits": _numbers(rng, (n, c), is_small), "target": rng.integers(0, c, n)}
            features = (*(("with more than one row",) if n > 1 else ()),)
            yield Case(op, tensors, {}, features, is_small)


def _block(op: str, rng: np.random.Generator) -> Iterator[Case]:
    geometries: Mapping[bool, Any] = {
        False: (
            ((1, 1, 1, 5, 5, 2, 2), {}),
            ((2, 2, 3, 6, 7, 3, 3), {"padding": 1}),
            ((3, 2, 2, 5, 6, 2, 2), {"pool_stride": 1}),
            ((2, 2, 2, 9, 8, 3, 3), {"stride": 2, "padding": 1}),
            ((2, 1, 2, 7, 7, 2, 2), {"pool_kernel": 3, "pool_stride": 2}),
            ((1, 3, 2, 6, 6, 3, 3), {"padding": 2}),
            ((2, 2, 2, 7, 6, 3, 2), {}),
            ((2, 3, 2, 6, 6, 3, 3), {"padding": 1, "pool_kernel": 3, "pool_stride": 1}),
        ),
        True: (
            *(
                ((1, 1, 1, 2, 2, 1, 1), {}),
                ((1, 1, 1, 3, 3, 2, 2), {}),
                ((2, 1, 1, 2, 2, 1, 1), {}),
            ),
            *(((1, 1, 2, 2, 2, 1, 1), {}), ((1, 1, 1, 3, 3, 1, 1), {"pool_stride": 1})),
            *(((1, 1, 1, 2, 2, 3, 3), {"padding": 1}), ((1, 2, 2, 3, 3, 2, 2), {})),
            *(((1, 1, 1, 4, 4, 2, 2), {"stride": 2}), ((1, 1, 1, 3, 3, 2, 2), {"padding": 1})),
            *(((2, 2, 2, 4, 4, 3, 3), {"padding": 1}), ((1, 1, 1, 5, 5, 3, 3), {"pool_stride": 1})),
        ),
    }
    for small in (False, True, True, True):
        for (n, c, o, h, w, kh, kw), changed in geometries[small]:
            settings = {"stride": 1, "padding": 0, "pool_kernel": 2, **changed}
            settings.setdefault("pool_stride", settings["pool_kernel"])
            tensors = {
                "x": _distinct(rng, (n, c, h, w), small),
                "w": _numbers(rng, (o, c, kh, kw), small),
                "b": _numbers(rng, (o,), small) + (0.5 if small else 0.3),
            }
            part = {key: settings[key] for key in ("stride", "padding")}
            features = list(_features((n, c, h, w), (kh, kw), **part, out=o))
            if settings["pool_stride"] < settings["pool_kernel"]:
                features.append("where windows of the pool overlap")
            yield Case(op, tensors, settings, tuple(features), small)
    shapes = {"x": (2, 1, 5, 5), "w": (2, 1, 2, 2), "b": (2,)}  # every z is the same: ties
    tensors = {name: np.full(shape, 0.5) for name, shape in shapes.items()}
    settings = {"stride": 1, "padding": 0, "pool_kernel": 2, "pool_stride": 2}
    tied = ("where elements of a window are equal",)
    yield Case(op, tensors, settings, tied, kink=True, judged=("w", "b"))
