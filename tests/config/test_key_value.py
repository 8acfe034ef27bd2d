"""``key=value`` means the same to every command."""

from __future__ import annotations

import pytest

from cnnexp.config.key_value import text_of, value_of
from cnnexp.config.selection import run_to_resume
from cnnexp.config.targets import allowed_prefixes


@pytest.mark.parametrize(
    ("argument", "text", "value"),
    [
        ("run=outputs/train/x/2026-01-02_03-04-05", *["outputs/train/x/2026-01-02_03-04-05"] * 2),
        ("output='a b.onnx'", "a b.onnx", "a b.onnx"),
        ('output="it\'s.onnx"', "it's.onnx", "it's.onnx"),
        ("output=", "", ""),
        ("image=3", "3", 3),
        ("value_range=[0,255]", "[0,255]", [0, 255]),
        ("checkpoint=null", "null", None),
        ("allow_targets=[mylab.,'other.']", "[mylab.,'other.']", ["mylab.", "other."]),
        ("image=one, two.png", "one, two.png", "one, two.png"),  # as a sweep: no value of its own
        ("image=photo (1).png", *["photo (1).png"] * 2),  # no value of the grammar
        ("output='torn", "'torn", "'torn"),
    ],
)
def test_a_value_is_what_hydra_reads(argument: str, text: str, value: object) -> None:
    assert text_of(argument) == text
    assert value_of(argument) == value


def test_prefixes_of_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNEXP_ALLOW_TARGETS", "a., b.")
    assert allowed_prefixes(["seed=1"]) == ("a.", "b.")
    given = [
        "allow_targets=[c.,'d.']",
        "+allow_targets=e.",
        "allow_targets=[]",
        "allow_targets=f.,g.",
    ]
    assert allowed_prefixes(given) == ("a.", "b.", "c.", "d.", "e.", "f.", "g.")


def test_no_run_is_named() -> None:
    assert run_to_resume(["seed=1", "name=run=x"]) is None
