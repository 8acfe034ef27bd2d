"""Which known mistake, or which two, an output or gradient shows: the one that explains every case."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence

import numpy as np

from cnnexp.grading.agreement import close, is_right
from cnnexp.grading.cases import Array, Case
from cnnexp.grading.faults import compute, faults_of
from cnnexp.grading.faults.conv import Faults
from cnnexp.grading.faults.table import AT_KINKS
from cnnexp.grading.words import MISTAKES

_SECONDS = 3.0  # that the search for two mistakes at once may take
Seen = tuple[Case, Array]


def explanations(op: str, part: str, seen: Sequence[Seen]) -> list[Faults]:
    """The faults that give exactly what was seen, in the order of the table; pairs if no single one does.

    Args:
        op: The op.
        part: "y" or a gradient.
        seen: Cases and what the student's work gave for them, right ones as well.
    """
    seen = sorted(seen, key=lambda pair: pair[1].size)
    wrong = [pair for pair in seen if not is_right(pair[0], part, pair[1])]
    plain = [pair for pair in wrong if not pair[0].kink]
    singles = faults_of(op, part)
    found = [faults for faults in singles if _explains(faults, part, seen, wrong)]
    if found and plain:
        return [_with_ties(faults, part, seen, wrong) for faults in found]
    if found or not plain:
        return found
    return list(itertools.islice(_pairs(singles, part, seen, plain), 1))


def _with_ties(faults: Faults, part: str, seen: Sequence[Seen], wrong: Sequence[Seen]) -> Faults:
    """The faults, and that of ties as well if they do not explain what is wrong where there are ties."""
    ties = [pair for pair in wrong if pair[0].kink]
    if not ties or all(_same(faults, part, case, value) for case, value in ties):
        return faults
    more = (faults | {fault} for fault in sorted(AT_KINKS))
    known = set().union(*faults_of(wrong[0][0].op, part))
    fitting = (both for both in more if both <= known and _explains(both, part, seen, wrong))
    return next(fitting, faults)


def _pairs(
    singles: Sequence[Faults], part: str, seen: Sequence[Seen], wrong: Sequence[Seen]
) -> Iterable[Faults]:
    begun = time.perf_counter()
    # where a single fault changes nothing, it is no part of a pair that explains
    for first, second in itertools.combinations(singles, 2):
        if time.perf_counter() - begun > _SECONDS:
            return
        both = first | second
        if names_of(first) != names_of(second) and _explains(both, part, seen, wrong):
            yield both


def _explains(faults: Faults, part: str, seen: Sequence[Seen], wrong: Sequence[Seen]) -> bool:
    """Whether ``faults`` give what was seen everywhere, first where it is wrong.

    At ties and kinks several answers are right, so that these cases only tell about faults of ties.
    """
    at_kinks = bool(faults & AT_KINKS)
    checked = [pair for pair in (*wrong, *seen) if at_kinks or not pair[0].kink]
    if not any(not is_right(case, part, value) for case, value in checked[: len(wrong)]):
        return False
    return all(_same(faults, part, case, value) for case, value in checked)


def _same(faults: Faults, part: str, case: Case, value: Array) -> bool:
    made = compute(case, part, faults)
    if made is not None and made.size == 1 and made.shape != value.shape:
        made = np.broadcast_to(made.reshape(()), value.shape)  # as torch and numpy would
    if made is None:
        return False
    if made.size == value.size and made.shape != value.shape and value.ndim == 1:
        made = made.ravel()  # (C, H, W) as (C·H·W,)
    # torch adds up, or spreads, the gradient of a bias that has another length
    summed = made.ndim == 1 and value.shape == (1,) and close(value, np.asarray([made.sum()]))
    return summed or close(value, made)


def names_of(faults: Faults) -> list[str]:
    """The names of the mistakes that the faults are, each once."""
    return list(
        dict.fromkeys(MISTAKES[fault.partition(":")[2] or fault].name for fault in sorted(faults))
    )
