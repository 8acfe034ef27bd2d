"""``python -m cnnexp.bench``: that it measures and writes; no figure is asserted."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from cnnexp import ops
from cnnexp.speed import MODELS, SITUATIONS
from tests.conftest import Command


def test_every_op_has_a_situation() -> None:
    assert {situation.op for situation in SITUATIONS} == set(ops.op_names())


def test_a_step(command: Command, empty_folder: Path) -> None:
    done = command(
        "cnnexp.bench", "step", "--batch", "4", "--rounds", "2", "--no-compile",
        "--algorithm", "fused,auto", "--csv", "step.csv", "--json", "step.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (empty_folder / "step.csv").open(encoding="utf-8") as file:
        rows = {row["way"]: row for row in csv.DictReader(file)}
    ours = {"cnnexp fused", "cnnexp auto", "cnnexp auto, bfloat16"}
    assert set(rows) == {"torch NCHW", "torch channels_last", "torch bfloat16", *ours}
    fused, torch_row = rows["cnnexp fused"], rows["torch channels_last"]
    ratio = float(fused["full_ms"]) / float(torch_row["full_ms"])
    assert float(fused["vs torch channels_last"]) == pytest.approx(ratio, rel=0.01)
    # bytes depend on no clock
    assert float(fused["saved_mb"]) <= 0.3 * float(torch_row["saved_mb"])
    written = json.loads((empty_folder / "step.json").read_text(encoding="utf-8"))
    assert written["conditions"]["torch"] == fused["torch"]
    assert len(written["rows"]) == 6
    low, bfloat16 = rows["cnnexp auto, bfloat16"], rows["torch bfloat16"]
    ratio = float(low["full_ms"]) / float(bfloat16["full_ms"])
    assert float(low["vs torch bfloat16"]) == pytest.approx(ratio, rel=0.01)


@pytest.mark.parametrize("name", MODELS)
def test_every_network_takes_its_sizes(name: str) -> None:
    known = MODELS[name]
    with torch.device("meta"):
        for size in (known.least, known.size):
            images = torch.empty(2, known.channels, size, size)
            assert known.make(size)(images).shape == (2, 10)


def test_an_op(command: Command) -> None:
    done = command("cnnexp.bench", "ops", "--op", "linear", "--rounds", "2", "--no-compile")
    assert done.returncode == 0, done.stderr
    for text in ("linear large", "cnnexp direct", "cnnexp auto", "/ best algorithm"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["step", "--model", "resnet"],
            "--model=resnet: unknown; known: seed_cnn, lenet5, vgg, resnet18",
        ),
        (
            ["step", "--model", "vgg11", "--size", "8"],
            "--size=8: vgg11 takes images of at least 32",
        ),
        (["step", "--algorithm", "fusd"], "did you mean 'fused'?"),
        (["step", "--batch", "0"], "--batch=0: must be at least 1"),
        (["step", "--device", "tpu"], "--device=tpu: must be cpu or cuda"),
        (["ops", "--op", "conv9d"], "--op=conv9d: unknown; known: conv2d"),
        (["ops", "--csv", "no/file.csv"], "--csv=no/file.csv: there is no folder"),
        ([], "arguments are required"),
    ],
)
def test_a_wrong_command_line_is_one_message(
    command: Command, arguments: list[str], message: str
) -> None:
    done = command("cnnexp.bench", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
