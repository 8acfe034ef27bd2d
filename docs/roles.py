"""Shows ``:func:`name``` and its like in docstrings as code on the site, which is Markdown."""

import re

import griffe

__all__ = ["Roles"]


class Roles(griffe.Extension):
    """A griffe extension: rewrites every docstring that is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            text = re.sub(r":(?:attr|class|data|func|meth|mod):`~?", "`", obj.docstring.value)
            obj.docstring.value = text.replace("``", "`")
