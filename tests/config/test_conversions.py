"""What YAML cannot hold, made for the argument that asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Optional, Union

import pytest

from cnnexp.config import ConfigError
from cnnexp.config.conversions import converted
from cnnexp.config.targets import check_target, make


@dataclass
class Theme:
    """Settings in a class."""

    colour: str = "red"
    width: int = 3


def _find(key: str, name: object) -> Any:
    return {"json.loads": json.loads}[str(name)]


@pytest.mark.parametrize(
    ("hint", "value", "made"),
    [
        (Callable[[str], Any], "json.loads", json.loads),
        (Optional[Callable], "json.loads", json.loads),  # noqa: UP045
        (Union[Callable, str], "l1_unstructured", "l1_unstructured"),  # noqa: UP007
        (timedelta | None, {"minutes": 5}, timedelta(minutes=5)),
        (timedelta | str | int, "01:02:03:04", timedelta(1, 4, minutes=3, hours=2)),
        (timedelta | int, 5, 5),
        (Theme, {"colour": "blue"}, Theme("blue", 3)),
        (dict[int, int], {"0": 1, "4": 2}, {0: 1, 4: 2}),  # as JSON has it
        (dict[int, int], {0: 1}, {0: 1}),
        (dict[str, int] | None, {"0": 1}, {"0": 1}),
        (Any, {"a": 1}, {"a": 1}),
        (str, "a.b", "a.b"),
    ],
)
def test_it_becomes_what_the_annotation_says(hint: Any, value: Any, made: Any) -> None:
    assert converted("part.key", hint, value, _find) == made


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (timedelta, "1:00", r"k=1:00: must be a span of time, as \{minutes: 5\} or '00:00:05:00'"),
        (timedelta, {"years": 1}, r"k=\{'years': 1\}: must be a span of time"),
        (timedelta, {"days": 10**12}, r"must be a span of time"),
        (Theme, {"color": "blue"}, r"k\.color: there is no such setting; known: colour, width"),
    ],
)
def test_what_it_cannot_become(hint: Any, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        converted("k", hint, value, _find)


def test_functions_need_leave_as_classes_do() -> None:
    node = {"_target_": "lightning.pytorch.callbacks.LambdaCallback", "on_fit_start": "json.loads"}
    with pytest.raises(ConfigError, match=r"on_fit_start\._target_=json\.loads is not allowed"):
        check_target("callbacks.x", node)
    assert make("callbacks.x", node, ("json.",)).on_fit_start is json.loads
