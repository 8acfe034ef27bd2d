"""The drawings in docs/ are those that their script draws, and what is cited has a link."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _drawings() -> dict[str, str]:
    return _script("drawings").drawings()


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


def _id(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", DOCUMENTS, ids=_id)
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


def _anchors(file: Path) -> set[str]:
    """What GitHub, and the site, make of the page's headings."""
    titles = re.findall(r"^#+ (.+)$", _prose(file), re.M)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in plain}


@pytest.mark.parametrize("file", DOCUMENTS, ids=_id)
def test_links_to_headings_lead_to_one(file: Path) -> None:
    for path, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", _prose(file)):
        if "://" not in path:
            page = (file.parent / path).resolve() if path else file
            assert anchor in _anchors(page), f"{path}#{anchor}"


def test_the_site_has_every_page_in_its_navigation() -> None:
    build = _script("build")
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"^ +- (?:\w+: )?([\w/-]+\.md)$", text, re.M))
    assert named == {build.place_of(file) for file in DOCUMENTS}


@pytest.mark.parametrize(
    ("file", "written", "on_the_site"),
    [
        ("README.md", "[a](docs/running.md#data)", "[a](running.md#data)"),
        ("README.md", "[a](docs/decisions/README.md)", "[a](decisions/index.md)"),
        ("README.md", "![a](docs/pictures/report.png)", "![a](pictures/report.png)"),
        ("README.md", '<img src="docs/pictures/report.png">', '<img src="pictures/report.png">'),
        ("README.md", "[LICENSE](LICENSE)", "LICENSE"),
        ("docs/extending.md", "[a](../CONTRIBUTING.md#rules)", "[a](contributing.md#rules)"),
        ("docs/extending.md", "[a](running.md), [b](#data)", "[a](running.md), [b](#data)"),
        ("docs/decisions/winograd.md", "[a](../running.md)", "[a](../running.md)"),
        ("docs/results.md", "[a](https://doi.org/1)", "[a](https://doi.org/1)"),
        ("docs/results.md", "```\n[a](../LICENSE)\n```", "```\n[a](../LICENSE)\n```"),
    ],
)
def test_links_hold_on_github_and_on_the_site(file: str, written: str, on_the_site: str) -> None:
    assert _script("build").on_the_site(written, ROOT / file) == on_the_site


def test_the_site_refuses_a_link_that_leads_nowhere() -> None:
    with pytest.raises(SystemExit, match=r"docs/results.md: the link to nowhere.md leads nowhere"):
        _script("build").on_the_site("[a](nowhere.md)", ROOT / "docs/results.md")
