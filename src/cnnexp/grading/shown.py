"""A grade that shows itself: as text in a terminal, as HTML in a notebook."""

from __future__ import annotations

from cnnexp.grading.page import body_of
from cnnexp.grading.result import Verdict
from cnnexp.grading.show import as_text


class Grade(Verdict):
    """The result of grading one piece of work; true if everything is right."""

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return body_of(self)
