"""``python -m cnnexp.bench``: that it measures and writes; no figure is asserted."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from cnnexp import ops
from cnnexp.speed import MODELS, SITUATIONS, Measured, compare
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


def test_networks_by_name(command: Command, empty_folder: Path) -> None:
    done = command(
        "cnnexp.bench", "net", "lenet5", "squeezenet1_1", "--batch", "2", "--size", "32",
        "--rounds", "2", "--no-compile", "--csv", "net.csv",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (empty_folder / "net.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name in ("lenet5, 32×32, batch 2", "squeezenet1_1, 32×32, batch 2"):
        own = {row["way"]: float(row["full_ms"]) for row in rows if name in row["what"]}
        assert set(own) == {
            *("torch NCHW", "torch channels_last", "torch bfloat16"),
            *("cnnexp auto", "cnnexp auto, bfloat16"),
        }
        theirs = min(ms for way, ms in own.items() if way.startswith("torch"))
        ours = min(ms for way, ms in own.items() if way.startswith("cnnexp"))
        (line,) = (line for line in done.stdout.splitlines() if name in line)
        assert f"{ours / theirs:8.2f}" in line
        assert line.endswith("faster" if ours < 0.98 * theirs else ("the same", "slower"))
    assert "of 2: " in done.stdout


def test_the_best_of_each_side_is_compared() -> None:
    def row(way: str, ms: float, saved: float) -> Measured:
        return Measured("step net", way, {"full": ms}, saved_megabytes=saved)

    rows = [row("torch NCHW", 4, 8), row("torch bfloat16", 2, 4), row("cnnexp auto", 3, 2)]
    found = compare([*rows, Measured("step net", "torch.compile", note="not measured")])
    assert (found.torch.way, found.ours.way) == ("torch bfloat16", "cnnexp auto")
    assert (found.ratio, found.saved_ratio, found.verdict) == (1.5, 0.5, "slower")
    assert compare([*rows, row("cnnexp fused", 2.03, 1)]).verdict == "the same"
    assert compare([*rows, row("cnnexp fused", 1.0, 1)]).verdict == "faster"
    with pytest.raises(ValueError, match="step net: needs a way of torch and one of ours"):
        compare(rows[:2])


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
        (["net", "resnet1"], "name=resnet1: unknown; known: seed_cnn, lenet5, vgg, resnet18"),
        (
            ["net", "inception_v3", "--size", "32", "--batch", "2", "--no-compile"],
            "inception_v3 does not train on 2 images of 3×32×32: ",
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
