"""Which kernels ran."""

from __future__ import annotations

from typing import Any

import pytest


def count_calls(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, calls: list[Any], key: Any = None
) -> None:
    """Let each call of the function ``name`` of ``module`` enter ``key``, else its name, in ``calls``.

    A kernel is counted with torch's dispatcher and without it.
    """
    original = getattr(module, name)

    def counted(*arguments: Any) -> Any:
        calls.append(key or name)
        return original(*arguments)

    vars(counted)["__wrapped__"] = counted
    monkeypatch.setattr(module, name, counted)
