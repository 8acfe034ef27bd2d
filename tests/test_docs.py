"""The drawings in docs/ are those that their script draws."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _drawings() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("drawings", ROOT / "docs/drawings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.drawings()


def test_the_drawings_are_up_to_date() -> None:
    drawn = _drawings()
    kept = {f.name: f.read_text(encoding="utf-8") for f in (ROOT / "docs/pictures").glob("*.svg")}
    assert kept == drawn
