"""The drawings in docs/ are those that their script draws, and what is cited has a link."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


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


def _prose(file: Path) -> str:
    """The text without its programs."""
    return re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.M | re.S)


CITED = re.compile(
    r"[A-ZÀ-Ž][\w'é-]+(?: (?:et al\.|(?:&|and) [A-ZÀ-Ž][\w'é-]+))?, (?:CVPR )?(?:19|20)\d\d\b"
)


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda f: f.name)
def test_every_paper_that_is_cited_has_a_link(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    linked = re.findall(r"\[([^]]+)\]\((?:https://(?:doi\.org|arxiv\.org/abs)/[^)\s]+)\)", text)
    bare = re.sub(r"\[[^]]*\]\([^)]*\)", "", _prose(file))
    assert [found[0] for found in CITED.finditer(bare)] == []
    for cited in CITED.findall("\n".join(re.findall(r"^```.*?^```", text, re.M | re.S))):
        assert cited in linked  # in a program's comments: the prose beside it has the link


def test_the_citations_are_recognised() -> None:
    for text in ("Dahl et al., 2023", "Polyak & Juditsky, 1992", "Lavin and Gray, CVPR 2016"):
        assert CITED.fullmatch(text)
    assert not CITED.search("On 2026-11-24, in October, 2,000 steps")


def test_the_article_is_named_where_it_is_spoken_of() -> None:
    for name in ("README.md", "docs/derivation.md"):
        assert "CNN 的反向传播算法：理解与优化" in (ROOT / name).read_text(encoding="utf-8")
