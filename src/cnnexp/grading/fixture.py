"""The pytest fixture ``grade``: a student's work judged in a test.

    def test_my_conv(grade):
        grade("conv2d", "my_layer.py")

Installed as a pytest plugin with cnnexp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cnnexp.grading.shown import Grade


@pytest.fixture
def grade() -> Callable[..., Grade]:
    """A function with the arguments of :func:`cnnexp.grading.grade`; what is wrong fails the test."""

    def graded(op: str, work: Any = None, **options: Any) -> Grade:
        __tracebackhide__ = True
        from cnnexp.grading import grade as judged

        found = judged(op, work, **options)
        if not found:
            pytest.fail(repr(found), pytrace=False)
        return found

    return graded
