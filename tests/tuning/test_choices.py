"""The file of choices, with several processes at it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnnexp.tuning.choices import ChoiceFile

KINDS: dict[
    str, tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...], tuple[Any, ...]]
] = {
    "an op": (
        ChoiceFile.get,
        ChoiceFile.put,
        ("direct", {"direct": 0.5}),
        ("native", {"native": 0.25}),
    ),
    "a network": (
        ChoiceFile.get_step,
        ChoiceFile.put_step,
        ({"0": "direct"}, 0.5),
        ({"0": "native"}, 1.0),
    ),
    "a precision": (ChoiceFile.get_ratio, ChoiceFile.put_ratio, (0.5,), (0.25,)),
}


def _as_given(values: tuple[Any, ...]) -> Any:
    """What ``get`` gives for what ``put`` took."""
    return values if len(values) > 1 else next(iter(values))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_that_measure_the_same_the_first_stays(kind: str) -> None:
    get, put, one, other = KINDS[kind]
    ours, theirs = ChoiceFile(), ChoiceFile()
    assert get(ours, "a step") is get(theirs, "a step") is None
    put(theirs, "a step", *one)
    put(ours, "a step", *other)
    found = [get(each, "a step") for each in (ours, theirs, ChoiceFile())]
    assert found == [_as_given(one)] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_known_before_is_replaced(kind: str) -> None:
    get, put, one, other = KINDS[kind]
    put(ChoiceFile(), "a step", *one)
    file = ChoiceFile()
    assert get(file, "a step") is not None  # and of no use, as of an algorithm that is no more
    put(file, "a step", *other)
    assert get(ChoiceFile(), "a step") == _as_given(other)


@pytest.mark.parametrize("undisturbed", [True, False])
def test_a_ratio_is_settled_by_the_first_that_measured_undisturbed(undisturbed: bool) -> None:
    ours, theirs = ChoiceFile(), ChoiceFile()
    assert ours.get_ratio("a step") is None
    assert ours.settle_ratio("a step", 0.50001, undisturbed=False) == 0.5
    assert theirs.get_ratio("a step") is None  # what was disturbed is not kept
    assert theirs.settle_ratio("a step", 0.25, undisturbed=True) == 0.25
    assert ours.settle_ratio("a step", 0.5, undisturbed=undisturbed) == 0.25


def test_choices_of_other_situations_stay() -> None:
    ours, theirs = ChoiceFile(), ChoiceFile()
    assert ours.get_ratio("one") is None
    theirs.put_ratio("another", 0.5)
    ours.put_ratio("one", 0.25)
    assert [ChoiceFile().get_ratio(each) for each in ("one", "another")] == [0.25, 0.5]
