"""``python -m cnnexp.gradcheck`` as its users type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Command


def test_a_quick_check_of_one_op(command: Command, empty_folder: Path) -> None:
    done = command("cnnexp.gradcheck", "--op", "relu,tanh", "--quick", "--json", "proof.json")
    assert done.returncode == 0, done.stderr
    assert "negative control: gradients wrong by 1/1000 were caught for all 2 ops" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("all proved: 16 rows, ")
    written = json.loads((empty_folder / "proof.json").read_text(encoding="utf-8"))
    assert written["conditions"]["battery"]["against_torch"] == 40
    assert len(written["rows"]) == 16 + 2
    proved = {(row["op"], row["algorithm"], row["dtype"]) for row in written["rows"]}
    assert ("tanh", "direct", "bfloat16") in proved


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "conv3d"], "--op=conv3d: unknown; known: adaptive_avg_pool2d, avg_pool2d"),
        (["--algorithm", "drect"], "did you mean 'direct'?"),
        (["--json", "no/such/file.json"], "--json=no/such/file.json: there is no folder"),
        (["--slow"], "unrecognized arguments: --slow"),
        (["--device", "tpu"], "--device=tpu: must be cpu or cuda"),
    ],
)
def test_a_wrong_command_line_is_one_message(
    command: Command, arguments: list[str], message: str
) -> None:
    done = command("cnnexp.gradcheck", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_no_torch(command: Command) -> None:
    done = command("cnnexp.gradcheck", "--help")
    assert done.returncode == 0
    assert "--quick" in done.stdout


def test_a_wrong_backward_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cnnexp import gradcheck, ops
    from cnnexp.ops import registry

    right = ops.get_algorithm("relu", "native")
    wrong = registry.Algorithm("relu", "native", lambda x, inplace=False: x.abs(), right.summary)
    monkeypatch.setitem(registry._REGISTRY["relu"], "native", wrong)
    with pytest.raises(SystemExit) as stop:
        gradcheck.main(["--op", "relu", "--quick"])
    assert stop.value.code == 1
    assert "WRONG relu native float64: " in capsys.readouterr().out
