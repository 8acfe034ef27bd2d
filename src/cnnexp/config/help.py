"""What ``--help`` shows: each choice and each value with its line from the comments of the config files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from cnnexp.config.interpolation import raw

__all__ = ["comments_of", "help_text", "meaning_of_file"]

_HASH = re.compile(r"\s+#\s+(.*)$")
_KEY = re.compile(r"^( *)([\w.]+):")
_LONGEST = 44  # of a value beside its comment


def help_text(config: DictConfig, folders: Sequence[Path], *, resolve: bool = False) -> str:
    """The choices of each group, and the values of ``config``, which was composed with Hydra's node.

    Args:
        config: What the command would run.
        folders: Those that hold configs, in the order in which they are searched.
        resolve: Show values in the place of interpolations.
    """
    lines = [str(config.hydra.help.header).rstrip(), "", "== Choices (group=name) =="]
    chosen = dict(config.hydra.runtime.choices)
    for group in _groups(folders):
        lines += ["", f"{group}:"]
        files = _files(group, folders)
        width = max(map(len, files))
        for name, file in sorted(files.items()):
            mark = "*" if chosen.get(group) == name else " "
            lines.append(f"{mark} {name.ljust(width)}  {meaning_of_file(file)}".rstrip())
    comments = comments_of(_file("train", folders))
    for group, name in chosen.items():
        files = _files(group, folders)
        if name in files and "@" not in group:
            own = comments_of(files[name])
            comments |= {f"{group}.{key}": said for key, said in own.items()}
    bare = OmegaConf.create({key: part for key, part in raw(config).items() if key != "hydra"})
    values: Any = OmegaConf.to_container(bare, resolve=resolve)
    lines += ["", "== Values (key=value) ==  (* is chosen)", "", *_values(values, comments)]
    return "\n".join(lines) + (
        "\n\n--cfg job shows the config that a command would run; --hydra-help lists Hydra's own flags."
    )


def meaning_of_file(file: Path) -> str:
    """The first line of comment in a config file that says something to people; "" if there is none."""
    for line in file.read_text(encoding="utf-8").splitlines():
        said = line.removeprefix("#").strip()
        if line.startswith("#") and not said.startswith("@package"):
            return said
        if line and not line.startswith("#"):
            return ""
    return ""


def comments_of(file: Path | None) -> dict[str, str]:
    """The comment behind each key of a YAML file, by the key with dots."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in file.read_text(encoding="utf-8").splitlines() if file is not None else ():
        key, said = _KEY.match(line), _HASH.search(line)
        if key is None:
            continue
        depth = len(key[1])
        path = [*((d, name) for d, name in path if d < depth), (depth, key[2])]
        if said is not None:
            found[".".join(name for _, name in path)] = said[1]
    return found


def _values(node: Mapping[str, Any], comments: Mapping[str, str], path: str = "") -> Iterator[str]:
    indent = "  " * path.count(".")
    for key, value in node.items():
        said = comments.get(f"{path}{key}", "")
        nested = isinstance(value, Mapping) and value
        text = f"{indent}{key}:" if nested else f"{indent}{key}: {_flow(value)}"
        yield f"{text.ljust(_LONGEST)}  {said}".rstrip() if said else text
        if nested:
            yield from _values(value, comments, f"{path}{key}.")


def _flow(value: Any) -> str:
    """A value on one line, as it is typed."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _groups(folders: Sequence[Path]) -> list[str]:
    names = {each.name for folder in folders for each in folder.iterdir() if each.is_dir()}
    return sorted(name for name in names if name != "hydra" and _files(name, folders))


def _files(group: str, folders: Sequence[Path]) -> dict[str, Path]:
    return {
        file.stem: file for folder in reversed(folders) for file in (folder / group).glob("*.yaml")
    }


def _file(name: str, folders: Sequence[Path]) -> Path | None:
    found = (folder / f"{name}.yaml" for folder in folders)
    return next((file for file in found if file.is_file()), None)
