"""The site: README, CHANGELOG, CONTRIBUTING, docs/ and a reference of all public names, built strictly.

    make docs                     # into site/; open site/index.html
    python docs/build.py --serve  # the same, built anew whenever a page under build/docs changes

Pages are laid together in build/docs so that links that hold on GitHub hold on the site as well. The pages
under api/ are written here, one a package, from the package's ``__all__``; mkdocstrings fills them from
the docstrings. Warnings are errors, such as a link to nowhere or to a heading that is gone.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build" / "docs"

# Files of the repository that are pages, by their place there.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}

# Packages whose ``__all__`` is public, in the order of the site.
PUBLIC = (
    "cnnexp",
    "cnnexp.nn",
    "cnnexp.ops",
    "cnnexp.proofs",
    "cnnexp.tuning",
    "cnnexp.optim",
    "cnnexp.regularization",
    "cnnexp.privacy",
    "cnnexp.models",
    "cnnexp.data",
    "cnnexp.training",
    "cnnexp.diagnostics",
    "cnnexp.inference",
    "cnnexp.notebook",
    "cnnexp.explanation",
    "cnnexp.grading",
    "cnnexp.runs",
    "cnnexp.reporting",
)


def place_of(file: Path) -> str | None:
    """Where a file of the repository is on the site; None if it is no part of it."""
    name = file.relative_to(ROOT).as_posix()
    if name in OUTSIDE:
        return OUTSIDE[name]
    if name.startswith("docs/") and file.suffix in (".md", ".png", ".svg"):
        return re.sub(r"(^|/)README\.md$", r"\1index.md", name.removeprefix("docs/"))
    return None


def on_the_site(text: str, file: Path) -> str:
    """The page ``text`` of ``file`` with its links as the site has them.

    Links to files that the site has not, such as LICENSE or a folder of the code, become their names.
    """
    here = place_of(file)
    assert here is not None

    def target_of(target: str) -> str | None:
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path:
            return target
        found = (file.parent / path).resolve()
        if not found.exists():
            raise SystemExit(f"{file.relative_to(ROOT)}: the link to {target} leads nowhere")
        place = place_of(found) if found.is_file() else None
        if place is None:
            return None
        return "../" * here.count("/") + place + hash_ + anchor

    def link(match: re.Match[str]) -> str:
        target = target_of(match["target"])
        return match["text"][1:-1] if target is None else f"{match['text']}({target})"

    pattern = r"(?P<text>\[[^][]*\])\((?P<target>[^)\s]+)\)"
    parts = re.split(r"(^```.*?^```)", text, flags=re.M | re.S)  # programs stay what they are
    for number in range(0, len(parts), 2):
        parts[number] = re.sub(pattern, link, parts[number])
        parts[number] = re.sub(
            r'(?<= src=")[^"]+(?=")', lambda m: target_of(m[0]) or m[0], parts[number]
        )
    return "".join(parts)


def lay_together() -> None:
    """Copy all pages and pictures into build/docs."""
    shutil.rmtree(PAGES, ignore_errors=True)
    files = [ROOT / name for name in OUTSIDE]
    for file in [*files, *sorted((ROOT / "docs").rglob("*"))]:
        place = place_of(file) if file.is_file() else None
        if place is None:
            continue
        target = PAGES / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".md":
            target.write_text(on_the_site(file.read_text(encoding="utf-8"), file), encoding="utf-8")
        else:
            shutil.copyfile(file, target)


def home_of(package: ModuleType, name: str) -> str:
    """The dotted name by which the docstring of ``package.name`` is found in the source."""
    value = getattr(package, name)
    module, own = getattr(value, "__module__", None), getattr(value, "__qualname__", name)
    if inspect.ismodule(value):
        return value.__name__
    if isinstance(module, str) and module.startswith("cnnexp"):
        return f"{module}.{own}"
    for each in sorted(sys.modules):  # a constant: the file that assigns it
        if each.startswith(f"{package.__name__}.") and re.search(
            rf"^{name}(: .*)? = ", inspect.getsource(sys.modules[each]), re.MULTILINE
        ):
            return f"{each}.{name}"
    return f"{package.__name__}.{name}"


def reference(name: str) -> str:
    """The page of one package."""
    package = importlib.import_module(name)
    about = re.sub(r":(?:class|data|func|mod):(?=`)", "", inspect.cleandoc(package.__doc__ or ""))
    lines = [f"# {name}", "", about, ""]
    for public in package.__all__:
        if public.startswith("__"):
            continue
        lines += [f"::: {home_of(package, public)}", ""]
    return "\n".join(lines)


def write_reference() -> None:
    """Write the pages under api/."""
    folder = PAGES / "api"
    folder.mkdir(parents=True)
    rows = []
    for name in PUBLIC:
        (folder / f"{name}.md").write_text(reference(name), encoding="utf-8")
        first = (importlib.import_module(name).__doc__ or "").strip().partition("\n\n")[0]
        rows.append(f"| [`{name}`]({name}.md) | {' '.join(first.split())} |")
    index = ["# Reference", "", "Public functions and classes, from their docstrings.", ""]
    index += ["| package | what is in it |", "| --- | --- |", *rows, ""]
    (folder / "index.md").write_text("\n".join(index), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="show the site while pages change")
    options = parser.parse_args()
    lay_together()
    write_reference()
    command = ["serve"] if options.serve else ["build", "--clean", "--strict"]
    sys.exit(
        subprocess.run(
            [sys.executable, "-m", "zensical", *command], cwd=ROOT, check=False
        ).returncode
    )


if __name__ == "__main__":
    main()
