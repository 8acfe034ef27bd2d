"""The tab key completes choices and keys of ``cnnexp-train``, in the shells that are installed here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCS = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
PROGRAMS = {  # what a shell's own machinery is asked, once the line of the documentation is run
    "bash": """
eval "$(cnnexp-train -sc install=bash)"
COMP_LINE="cnnexp-train {line}"; COMP_POINT=${{#COMP_LINE}}
COMP_WORDS=($COMP_LINE); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
complete -p cnnexp-train > /dev/null && hydra_bash_completion && printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "zsh": """
autoload -Uz compinit bashcompinit; compinit -u -D; bashcompinit
eval "$(cnnexp-train -sc install=zsh)"
[[ $_comps[cnnexp-train] == *hydra_bash_completion* ]] || exit 1
emulate -L sh; setopt ksharrays
COMP_LINE="cnnexp-train {line}"; COMP_POINT=${{#COMP_LINE}}
COMP_WORDS=(${{=COMP_LINE}}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
hydra_bash_completion && printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "fish": """
cnnexp-train -sc install=fish | source
complete -C "cnnexp-train {line}"
""",
}


@pytest.fixture
def scripts(tmp_path: Path) -> dict[str, str]:
    """An environment with the console script, as pip writes it."""
    script = tmp_path / "cnnexp-train"
    script.write_text(f"#!{sys.executable}\nfrom cnnexp.train import main\nmain()\n")
    script.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (
            "optimizer=ada",
            {f"optimizer={name}" for name in ("adadelta", "adagrad", "adam", "adamw")},
        ),
        ("seed=1 data=dig", {"data=digits"}),
        ("optimizer.weight_d", {"optimizer.weight_decay="}),
    ],
)
@pytest.mark.parametrize("shell", PROGRAMS)
def test_the_tab_key_offers(
    shell: str, line: str, offered: set[str], scripts: dict[str, str], tmp_path: Path
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    command = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *command, "-c", PROGRAMS[shell].format(line=line)],
        cwd=tmp_path, env=scripts, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = {each.split("\t")[0] for each in done.stdout.split("\n") if each}
    assert found == offered, done.stderr


def test_the_lines_of_the_documentation_are_those() -> None:
    for shell, program in PROGRAMS.items():
        for each in program.strip().splitlines():
            if "install=" in each or "compinit" in each:
                assert each in DOCS, (shell, each)
