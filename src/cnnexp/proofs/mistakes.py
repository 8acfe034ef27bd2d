"""Diagnose a wrong gradient, in words that help to correct it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Size, Tensor

_CLOSE = 1e-4


@dataclass
class Evidence:
    """A gradient ∂L/∂(name) beside the right one, for L = Σ weights · outputs.

    Attributes:
        name: The name of the leaf.
        found: The gradient that the backward gave.
        expected: The gradient by differences, of the same shape.
        wrong: Where the two differ, a mask of the same shape.
        value: The value of the leaf.
        jacobian: All derivatives of the outputs' elements, (elements of ``found``, elements of all
            outputs); None if that is too large.
        weights: The gradient that was sent back, the outputs' elements in one vector.
        shapes: The shapes of the outputs.
        others: The right gradients with respect to other leaves, by name.
        close: The relative error up to which two gradients count as the same.
        sampled: Where only some elements were checked, their places, and the whole shape.
    """

    name: str
    found: Tensor
    expected: Tensor
    wrong: Tensor
    value: Tensor
    jacobian: Tensor | None
    weights: Tensor
    shapes: Sequence[Size]
    others: dict[str, Tensor] = field(default_factory=dict)
    close: float = _CLOSE
    sampled: tuple[list[int], Size] | None = None

    def amount(self) -> str:
        """How many of the elements that were checked are wrong, in words."""
        drawn = "" if self.sampled is None else " that were drawn"
        return f"{int(self.wrong.sum())} of {self.wrong.numel()} elements{drawn}"

    def same(self, other: Tensor) -> bool:
        """Whether ``found`` equals ``other``."""
        if other.shape != self.found.shape:
            return False
        scale = other.abs().max().item()
        return scale > 0 and (self.found - other).abs().max().item() <= self.close * scale

    def factor(self, other: Tensor) -> float | None:
        """The factor by which ``found`` is a multiple of ``other``; None if it is not one."""
        square = other.square().sum().item()
        if other.shape != self.found.shape or not square:
            return None
        factor = (self.found * other).sum().item() / square
        return factor if factor and self.same(factor * other) else None


def explain(evidence: Evidence) -> str:
    """One sentence on what is wrong, and the worst element with both numbers."""
    if not evidence.found.isfinite().all():
        pattern = f"∂L/∂{evidence.name} is not finite"
    else:
        found = (text for kind in _KINDS for text in kind(evidence))
        pattern = next(found, None) or _share(evidence)
    return f"{pattern}; {_worst(evidence)}"


def _worst(evidence: Evidence) -> str:
    gap = (evidence.found - evidence.expected).abs().nan_to_num(torch.inf)
    most = int(torch.where(evidence.wrong, gap, -1.0).argmax())
    found, expected = (t.reshape(-1)[most].item() for t in (evidence.found, evidence.expected))
    places, shape = evidence.sampled or (range(gap.numel()), gap.shape)
    index = [int(i) for i in torch.unravel_index(torch.tensor(places[most]), shape)]
    where = evidence.name + (str(index) if index else "")
    return f"worst at {where}: {_number(found)} instead of {_number(expected)}"


def _number(value: float) -> str:
    return "0" if abs(value) < 1e-12 else f"{value:.6g}"


def _share(evidence: Evidence) -> str:
    drawn = "" if evidence.sampled is None else " that were drawn"
    where = f"every element{drawn}" if evidence.wrong.all() else evidence.amount()
    return f"∂L/∂{evidence.name} is wrong in {where}"


def factor_text(factor: float, close: float = _CLOSE) -> str:
    """``factor`` as people write it: ½ of, 7 ×, 0.123 ×."""
    named = {Fraction(1, 2): "½", Fraction(1, 3): "⅓", Fraction(2, 3): "⅔", Fraction(1, 4): "¼"}
    near = Fraction(factor).limit_denominator(64)
    if near and abs(float(near) / factor - 1) < close / 10:
        sign, size = ("−" if near < 0 else ""), abs(near)
        if size.denominator == 1:
            return f"{sign}{size} ×"
        return f"{sign}{named.get(size, str(size))} of"
    return f"{factor:.6g} ×".replace("-", "−")


def _zero(e: Evidence) -> Iterator[str]:
    if not e.found.any():
        yield f"∂L/∂{e.name} is 0 everywhere, and should not be"


def _ratio(e: Evidence) -> Iterator[str]:
    factor = e.factor(e.expected)
    if factor is None:
        return
    gap = (e.found - e.expected).abs().max()
    if (e.found - factor * e.expected).abs().max() > (1e-3 if e.close <= _CLOSE else 0.05) * gap:
        return  # nearly right, and the difference is not a multiple of the right gradient
    if abs(factor + 1) < e.close:
        yield f"the sign is turned: ∂L/∂{e.name} is −1 × what it should be everywhere"
        return
    text = f"∂L/∂{e.name} is {factor_text(factor, e.close)} what it should be everywhere"
    for what, count in _counts(e):
        if abs(factor * count - 1) < e.close:
            yield f"{text} ({what} has {count}: a mean for a sum?)"
        if abs(factor / count - 1) < e.close:
            yield f"{text} ({what} has {count}: a sum for a mean, 1/N left out?)"
    yield text


def _counts(e: Evidence) -> Iterator[tuple[str, int]]:
    """The numbers by which people divide a gradient, or forget to, each with a description."""
    shapes = [shape for shape in e.shapes if len(shape) > 1]
    own = e.found.shape if e.sampled is None else e.sampled[1]
    shapes += [own] if len(shapes) < len(e.shapes) and len(own) > 1 else []
    counted = [("the batch", shape[0]) for shape in shapes]
    counted += [("each channel of the output", s[2:].numel()) for s in e.shapes if len(s) > 2]
    counted += [("the output", shape.numel()) for shape in e.shapes if len(shape) > 1]
    counted += [(e.name, own.numel())] if len(shapes) > sum(len(s) > 1 for s in e.shapes) else []
    yield from ((what, count) for what, count in counted if count > 1)


def _independent(e: Evidence) -> Iterator[str]:
    if e.jacobian is not None and not (e.jacobian.abs() > 1e-9).any():
        yield (
            f"∂L/∂{e.name} should be 0 everywhere: the output does not change with {e.name} (does the "
            "function use a value that it kept from an earlier call?)"
        )


def _ignored(e: Evidence) -> Iterator[str]:
    if e.jacobian is not None and e.same(e.jacobian.sum(1).reshape(e.found.shape)):
        yield f"∂L/∂{e.name} leaves grad_output out: it is the gradient of the outputs' sum"


def _and_factor(e: Evidence, other: Tensor) -> str | None:
    """A text on the factor between ``found`` and ``other``, "" for factor 1; None if they differ
    otherwise.
    """
    factor = e.factor(other)
    if factor is None:
        return None
    return (
        ""
        if abs(factor - 1) < e.close
        else f", and {factor_text(factor, e.close)} what it should be"
    )


def _transposed(e: Evidence) -> Iterator[str]:
    for one, other in itertools.combinations(range(e.expected.dim()), 2):
        turned = e.expected.transpose(one, other)
        for candidate in (turned, turned.reshape(e.expected.shape)):
            more = _and_factor(e, candidate)
            if more is not None:
                yield f"∂L/∂{e.name} is transposed: axes {one} and {other} are exchanged{more}"


def _mirrored(e: Evidence) -> Iterator[str]:
    axes = [i for i, size in enumerate(e.expected.shape) if size > 1]
    for count in (1, 2):
        for chosen in itertools.combinations(axes, count):
            more = _and_factor(e, e.expected.flip(chosen))
            if more is not None:
                text = " and ".join(map(str, chosen))
                pair = all(e.expected.shape[axis] == 2 for axis in chosen)
                pairs = ", where its two indices are exchanged" if pair else ""
                yield f"∂L/∂{e.name} is mirrored along axis {text}{pairs}{more}"


def _shifted(e: Evidence) -> Iterator[str]:
    for axis, size in enumerate(e.expected.shape):
        for by in (1, -1):
            if size > 2 and e.same(e.expected.roll(by, axis)):
                yield f"∂L/∂{e.name} is shifted by {by} along axis {axis}"


def _exchanged(e: Evidence) -> Iterator[str]:
    for name, expected in e.others.items():
        more = _and_factor(e, expected)
        if more is not None:
            yield f"∂L/∂{e.name} is that of {name}{more}: are the two exchanged?"


def _parts(e: Evidence) -> Iterator[tuple[Size, Tensor]]:
    """The shape of each output, and the contribution of each of its elements to the gradient."""
    if e.jacobian is None:
        return
    sizes = [shape.numel() for shape in e.shapes]
    for shape, part in zip(e.shapes, (e.jacobian * e.weights).split(sizes, 1), strict=True):
        yield shape, part.reshape(-1, *shape)


def _missing_sum(e: Evidence) -> Iterator[str]:
    for shape, parts in _parts(e):
        rank = len(shape)
        groups = [(axis,) for axis in range(rank)] + ([(rank - 2, rank - 1)] if rank > 3 else [])
        for axes in groups:
            if all(shape[a] == 1 for a in axes) or rank < 2:
                continue
            rest = [a + 1 for a in range(rank) if a not in axes]
            each = parts.sum(rest) if rest else parts
            each = each.reshape(e.found.numel(), -1)
            if (each.abs() > 0).sum(1).max() < 2:
                continue  # there is no sum: each element feeds one index of this axis only
            for k in range(each.shape[1]):
                more = _and_factor(e, each[:, k].reshape(e.found.shape))
                if more is not None:
                    what = "the batch" if axes == (0,) else f"axis {', '.join(map(str, axes))}"
                    kept = "" if axes == (0,) else " of the output"
                    sizes = torch.Size(shape[a] for a in axes)
                    index = [int(i) for i in torch.unravel_index(torch.tensor(k), sizes)]
                    at = index[0] if len(index) == 1 else index
                    yield (
                        f"missing: the sum over {what}{kept}; ∂L/∂{e.name} holds the part of "
                        f"index {at} only{more}"
                    )


def _overlap(e: Evidence) -> Iterator[str]:
    for shape, parts in _parts(e):
        if len(shape) < 2:
            continue
        spatial = 2 if len(shape) > 2 else 1
        flat = parts.flatten(len(shape) + 1 - spatial)  # (elements, …, positions)
        over = list(range(1, flat.dim() - 1))
        feeds = (flat.abs() > 1e-12).any(over) if over else flat.abs() > 1e-12
        several = (feeds.sum(-1) > 1).reshape(e.wrong.shape)
        matters = e.expected.abs() > 1e-12
        spared = e.wrong & ~several | ~e.wrong & several & matters
        if several.all() or spared.any():
            continue
        by_position = flat.sum(over) if over else flat
        gap = (by_position - e.found.reshape(-1, 1)).abs().min(1).values[e.wrong.reshape(-1)]
        one = gap.max() <= e.close * e.expected.abs().max()
        kept = ": one window's part is kept, as by = in place of +=" if one else ""
        where = "windows overlap" if len(shape) > 2 else "an element enters several of the output"
        yield f"∂L/∂{e.name} is wrong only where {where}{kept}"


def _added(e: Evidence) -> Iterator[str]:
    gap = e.found - e.expected
    for what, other in (("", torch.ones_like(gap)), (e.name, e.value)):
        square = other.square().sum().item()
        if gap.numel() > 1 and square:
            factor = (gap * other).sum().item() / square
            scale = gap.abs().max().item()
            if (gap - factor * other).abs().max().item() <= max(e.close, 1e-3) * scale:
                text = f"{factor:.4g} × {what}" if what else f"{factor:.4g}"
                yield f"∂L/∂{e.name} has {text} added everywhere"


def _by_axis(e: Evidence) -> Iterator[str]:
    for axis, size in enumerate(e.expected.shape):
        rows = e.expected.transpose(0, axis).reshape(size, -1)
        found = e.found.transpose(0, axis).reshape(size, -1)
        square = rows.square().sum(1)
        if size < 2 or rows.shape[1] < 2 or not square.all():
            continue
        factors = (found * rows).sum(1) / square
        scaled = (factors[:, None] * rows).reshape(size, -1)
        if (scaled - found).abs().max() <= e.close * rows.abs().max():
            shown = ", ".join(f"{f:.4g}" for f in factors[:4].tolist()) + (
                ", …" if size > 4 else ""
            )
            yield f"∂L/∂{e.name} is off by a factor for each index of axis {axis}: {shown}"


def _places(e: Evidence) -> Iterator[str]:
    if e.wrong.all() or e.sampled is not None:
        return
    for axis, size in enumerate(e.wrong.shape):
        for k in range(size) if size > 1 else ():
            here = torch.zeros_like(e.wrong)
            here.select(axis, k).fill_(True)
            if (e.wrong & ~here).any():
                continue
            if e.wrong.sum() * 2 > here.sum():
                yield f"∂L/∂{e.name} is wrong only at index {k} of axis {axis}"
    matters = e.expected.abs() + e.found.abs() > 1e-12
    for what, here in (("negative", e.value < 0), ("positive", e.value > 0)):
        if not (e.wrong & ~here).any() and not (~e.wrong & here & matters).any():
            yield f"∂L/∂{e.name} is wrong only where {e.name} is {what}"
    if e.wrong.dim() > 1 and min(e.wrong.shape[-2:]) > 3:
        border = torch.ones_like(e.wrong)
        border[..., 1:-1, 1:-1] = False
        most = int(e.wrong.sum()) >= 0.7 * int((border & matters).sum())
        if most and not (e.wrong & ~border).any():
            yield f"∂L/∂{e.name} is wrong only at the border"


def _some_outputs(e: Evidence) -> Iterator[str]:
    parts = [part.reshape(e.found.numel(), -1).sum(1) for _, part in _parts(e)]
    if len(parts) < 2:
        return
    parts = [part.reshape(e.found.shape) for part in parts]
    for k, part in enumerate(parts):
        if e.same(e.expected - part):
            yield f"∂L/∂{e.name} leaves out what output {k} sends back"
        if e.same(e.expected - 2 * part):
            yield f"∂L/∂{e.name} has the sign turned in what output {k} sends back"


def _diagonal(e: Evidence) -> Iterator[str]:
    if e.jacobian is None or e.jacobian.shape[0] != e.jacobian.shape[1] or len(e.shapes) > 1:
        return
    if e.same((e.jacobian.diag() * e.weights).reshape(e.found.shape)):
        yield (
            f"∂L/∂{e.name} holds the diagonal of the Jacobian only: each element of {e.name} enters "
            "other elements of the output, too"
        )


def _zeros(e: Evidence) -> Iterator[str]:
    nothing, none_due = e.found.abs() < 1e-12, e.expected.abs() < 1e-12
    some = e.amount()
    if not (e.found * e.expected).any() and (e.wrong & nothing).any():
        yield f"∂L/∂{e.name} is 0 where it should not be, and not where it should: is a mask inverted?"
    if not (e.wrong & ~nothing).any():
        yield f"∂L/∂{e.name} is 0 in {some}, and should not be there (the mask of something else?)"
    if not (e.wrong & ~none_due).any():
        yield f"∂L/∂{e.name} should be 0 in {some}, and is not (is a mask left out?)"


def _clipped(e: Evidence) -> Iterator[str]:
    most = e.found.abs().max()
    at_most = (e.found.abs() - most).abs() <= 1e-9 * most
    beyond = (e.expected.abs() > most) & (e.expected.sign() == e.found.sign())
    if int(e.wrong.sum()) > 1 and not (e.wrong & ~(at_most & beyond)).any():
        yield f"∂L/∂{e.name} is clipped to ±{most.item():.4g}"


_KINDS = (
    _zero,
    _independent,
    _ignored,
    _ratio,
    _transposed,
    _mirrored,
    _missing_sum,
    _overlap,
    _exchanged,
    _shifted,
    _added,
    _by_axis,
    _places,
    _some_outputs,
    _diagonal,
    _clipped,
    _zeros,
)
