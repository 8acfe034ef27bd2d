"""A wrong output or gradient that is no known mistake: where it is wrong and how, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnnexp.grading.agreement import close, fits_shape, is_right, wrong_places
from cnnexp.grading.cases import Array, Case
from cnnexp.grading.contract import CONTRACTS

Seen = tuple[Case, Array | None]


def describe(op: str, part: str, seen: Sequence[Seen]) -> tuple[str, str]:
    """A short name for what is wrong, and a sentence on where and how."""
    wrong = [(case, value) for case, value in seen if not is_right(case, part, value)]
    present = [(case, value) for case, value in wrong if value is not None]
    where = where_wrong([case for case, _ in wrong], [case for case, _ in seen])
    if not present:
        return "missing", f"backward returns nothing (None) for it{where}."
    for how in (_another, _shape, _not_finite, _factor):
        said = how(op, part, present)
        if said is not None:
            return said[0], f"{said[1]}{where}."
    return "wrong numbers", f"{_border(part, present)}{where}."


def where_wrong(wrong: Sequence[Case], tried: Sequence[Case]) -> str:
    """`` (only …)``: what all wrong calls have in common and no right one; empty if that is nothing."""
    names = {id(case) for case in wrong}
    right = [case for case in tried if id(case) not in names]
    if not right or not wrong:
        return ""
    for feature in dict.fromkeys(f for case in wrong for f in case.features):
        if all(feature in case.features for case in wrong) and not any(
            feature in case.features for case in right
        ):
            return f", only {feature}"
    common = [
        f
        for f in dict.fromkeys(f for case in wrong for f in case.features)
        if all(f in case.features for case in wrong)
    ]
    return f", never but {' and '.join(common[:2])}" if common else ""


def _shape(_: str, part: str, wrong: Sequence[tuple[Case, Array]]) -> tuple[str, str] | None:
    odd = [(c, v) for c, v in wrong if not fits_shape(v.shape, c.right[part].shape)]
    if not odd:
        return None
    case, value = odd[0]
    return "wrong shape", f"It has the shape {value.shape} where {case.right[part].shape} is meant"


def _not_finite(_: str, _part: str, wrong: Sequence[tuple[Case, Array]]) -> tuple[str, str] | None:
    if all(np.isfinite(value).all() for _, value in wrong):
        return None
    return "not finite", "It has NaN or infinite elements"


def _another(op: str, part: str, wrong: Sequence[tuple[Case, Array]]) -> tuple[str, str] | None:
    contract = CONTRACTS[op]
    for other in contract.gradients:
        if other != part and all(close(value, case.right[other]) for case, value in wrong):
            order = ", ".join(contract.symbol(name) for name in contract.gradients)
            return "order of the results", (
                f"It is {contract.symbol(other)}: backward has to return {order} in this order"
            )
    return None


def _factor(_: str, part: str, wrong: Sequence[tuple[Case, Array]]) -> tuple[str, str] | None:
    factors = []
    for case, value in wrong:
        right = case.right[part]
        value = value.reshape(right.shape)
        square = float((right * right).sum())
        factor = float((value * right).sum()) / square if square else 0.0
        if not factor or not close(value, factor * right):
            return None
        factors.append(factor)
    if max(factors) - min(factors) <= 1e-3 * abs(factors[0]):
        return "constant factor", f"It is {factors[0]:.4g} times what it should be"
    low, high = min(factors), max(factors)
    return "factor", f"It is a multiple of what it should be, by {low:.3g} to {high:.3g}"


def _border(part: str, wrong: Sequence[tuple[Case, Array]]) -> str:
    masks = [wrong_places(v.reshape(c.right[part].shape), c.right[part]) for c, v in wrong]
    share = sum(int(m.sum()) for m in masks) / sum(m.size for m in masks)
    inner = [m[..., 1:-1, 1:-1] for m in masks if m.ndim == 4 and min(m.shape[-2:]) > 2]
    if inner and not any(m.any() for m in inner):
        return "Its elements at the border of the image are wrong, those inside are right"
    if inner and all(not _edge(m).any() for m in masks if m.ndim == 4 and min(m.shape[-2:]) > 2):
        return "Its elements inside the image are wrong, those at the border are right"
    return f"{share:.0%} of its elements are wrong"


def _edge(mask: Array) -> Array:
    edge = mask.copy()
    edge[..., 1:-1, 1:-1] = False
    return edge
