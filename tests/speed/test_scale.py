"""``python -m cnnexp.bench scale``: each axis runs and says what it must; no clock is asserted."""

from __future__ import annotations

import csv
import json
from collections import namedtuple
from pathlib import Path

import numba
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cnnexp.models import SeedCNN
from cnnexp.speed import (
    AXES,
    Scaled,
    ScaleSettings,
    axes,
    bench_scale,
    data_size,
    head_of,
    least_value,
    line_of,
    roofline,
    values_of,
)
from tests.conftest import Command

CPU = torch.device("cpu")
SMALL = ScaleSettings(CPU, 2, ("fused",), rounds=2)
VALUES = {
    "data": [5, 300],
    "batch": [1, 3],
    "width": [1, 2],
    "depth": [1, 2],
    "size": [16, 20],
    "threads": [1],
}
STEP_WAYS = {"torch channels_last", "cnnexp fused"}
WAYS = dict.fromkeys(VALUES, STEP_WAYS) | {"data": {"in memory", "mapped file"}}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices and copies."""
    monkeypatch.setattr(roofline, "_SIDE", 8)
    monkeypatch.setattr(roofline, "_CHANNELS", 4)
    monkeypatch.setattr(roofline, "_PIXELS", 4)
    monkeypatch.setattr(roofline, "_COPIED", 1000)


@pytest.mark.parametrize("axis", VALUES)
def test_an_axis_has_each_way_at_each_value(axis: str) -> None:
    rows = list(bench_scale(axis, VALUES[axis], SMALL))
    assert {(row.value, row.way) for row in rows} == {
        (value, way) for value in VALUES[axis] for way in WAYS[axis]
    }
    for row in rows:
        assert (row.axis, row.note) == (axis, "")
        assert row.images_per_second
        flat = row.flat()
        assert {"axis", "value", "what", "way", "full_ms", "images_per_second"} <= flat.keys()
        assert row.what in line_of(row)
    assert head_of(rows[0]).strip().startswith(axis)


def test_the_roofline_has_the_machine_and_each_layer(few: None) -> None:
    rows = list(bench_scale("roofline", (), SMALL))
    machine = [row for row in rows if row.axis == "machine"]
    assert len(machine) == 3 * len(roofline.DTYPES) + 1
    assert all(number > 0 for row in machine for number in row.figures.values())
    layers = {(row.what, row.way): row for row in rows if row.axis == "roofline"}
    expected = {
        (f"{layer.name} {part}", way)
        for layer in roofline.LAYERS
        for part in roofline.PARTS
        for way in STEP_WAYS
        if (layer.c_in, part) != (1, "∂L/∂x")
    }
    assert set(layers) == expected
    peak, bandwidth = roofline.peaks_of(machine)
    for row in layers.values():
        figures = row.figures
        intensity = figures["gflop"] * 1e9 / (figures["mb"] * 1e6)
        attainable = min(peak, intensity * bandwidth) / 1e9
        assert figures["attainable_gflops"] == pytest.approx(attainable)
        assert figures["share"] == pytest.approx(figures["gflops"] / attainable)
        rate = figures["gflop"] / (row.milliseconds["full"] / 1e3)
        assert figures["gflops"] == pytest.approx(rate)


def test_operations_and_bytes_of_a_layer_by_hand() -> None:
    """Layer 3 with two images: 2·49 outputs of 128 channels, each of 64·9 products and sums."""
    works = roofline._works(roofline.LAYERS[2], 2, CPU)
    torchs, ours = works["torch channels_last"], works["cnnexp fused"]
    dense = 2 * (2 * 49 * 128) * (64 * 9)
    x, w, y, pooled = 2 * 49 * 64 * 4, 128 * 64 * 9 * 4, 2 * 49 * 128 * 4, 2 * 9 * 128
    for work in torchs.values():
        assert (work.operations, work.moved) == (dense, x + w + y)
    assert ours["forward"].operations == dense
    for part, work in ours.items():
        assert work.moved == x + w + 4 * pooled + pooled
        if part != "forward":
            assert work.operations == 2 * pooled * 64 * 9
    x_, w_ = torch.rand(2, 64, 7, 7), torch.rand(128, 64, 3, 3)
    counted = FlopCounterMode(display=False)
    with counted:
        nn.functional.conv2d(x_, w_, padding=1)
    assert counted.get_total_flops() == dense


def test_every_axis_has_values_and_a_least_one() -> None:
    assert set(VALUES) == {axis for axis in AXES if values_of(axis)} == set(AXES) - {"roofline"}
    for axis in VALUES:
        assert min(values_of(axis)) >= least_value(axis) >= 1


def test_the_least_image_is_the_least(few: None) -> None:
    with pytest.raises(ValueError, match="too small"):
        SeedCNN(image_size=(15, 15))


def test_what_does_not_fit_into_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(axes, "free_bytes", lambda: 1000)
    (row,) = bench_scale("batch", [2], SMALL)
    assert row.note.startswith("left out: needs about 0.0 GB of memory, 0.0 are free")
    assert row.note in line_of(row)
    assert row.images_per_second is None
    assert row.flat()["note"] == row.note


def test_what_takes_too_long_is_left_out_or_done_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(axes, "_seconds_of_one", lambda *_: 100.0)
    (row,) = bench_scale("batch", [2], SMALL)
    assert row.note == ("left out: 3 rounds would take about 1200 s, more than 6 times --limit 10")
    monkeypatch.setattr(axes, "_seconds_of_one", lambda *_: 0.5)
    often = ScaleSettings(CPU, 2, ("fused",), rounds=9, limit=10.0)
    assert {row.rounds for row in bench_scale("batch", [1], often)} == {5}


def test_more_threads_than_there_are_are_left_out() -> None:
    many = 1 + axes.offered_threads()
    before = torch.get_num_threads(), numba.get_num_threads()
    (row,) = bench_scale("threads", [many], SMALL)
    assert row.note == f"left out: {many - 1} is what can be used here"
    list(bench_scale("threads", [1], SMALL))
    assert (torch.get_num_threads(), numba.get_num_threads()) == before


def test_a_set_that_fits_nowhere_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(data_size, "free_bytes", lambda: 0)
    settings = ScaleSettings(CPU, rounds=1, folder=tmp_path)
    rows = {row.way: row for row in bench_scale("data", [200], settings)}
    assert rows["in memory"].note == "left out: needs 0.0 GB of memory, 0.0 are free"
    assert rows["mapped file"].note == ""
    assert list(tmp_path.iterdir()) == []  # the file is gone
    disk = namedtuple("disk", "free")
    monkeypatch.setattr(data_size.shutil, "disk_usage", lambda _: disk(0))
    rows = {row.way: row for row in bench_scale("data", [200], settings)}
    assert rows["mapped file"].note == "left out: needs 0.0 GB of disk, 0.0 are free"
    assert rows["in memory"].note.startswith("left out")


def test_both_ways_of_the_data_have_the_same_batches(tmp_path: Path) -> None:
    data_size._write(tmp_path / "images.npy", 13_000)
    both = [data_size._module(w, 13_000, 64, tmp_path) for w in (data_size.HELD, data_size.MAPPED)]
    for one, other, _ in zip(*map(data_size._batches, both), range(5), strict=False):
        assert torch.equal(one, other)


def test_the_needed_memory_counts_outputs_and_weights() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU())
    outputs, weights = 2 * (5 * 2 * 6 * 6 * 4), 18 * 4
    assert axes.needed_bytes(network, (5, 1, 8, 8), 2) == 3 * outputs + 5 * 2 * weights


def test_the_command_writes_what_it_prints(command: Command, empty_folder: Path) -> None:
    done = command(
        "cnnexp.bench", "scale", "--axis", "depth", "--values", "1,2", "--batch", "2", "--rounds", "2",
        "--algorithm", "fused,auto", "--csv", "scale.csv", "--json", "scale.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (empty_folder / "scale.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ways = ["torch channels_last", "cnnexp fused", "cnnexp auto"]
    assert [(row["value"], row["way"]) for row in rows] == [(v, w) for v in "12" for w in ways]
    assert {row["torch"] for row in rows} == {torch.__version__}
    for row in rows:
        assert f"{row['what']:46}{row['way']}" in done.stdout
    written = json.loads((empty_folder / "scale.json").read_text(encoding="utf-8"))
    assert [row["axis"] for row in written["rows"]] == ["depth"] * 6


def test_a_row_without_a_time_has_no_rate() -> None:
    assert Scaled("x", "y", images=3).images_per_second is None
    assert Scaled("x", "y", {"full": 2.0}, images=3).images_per_second == 1500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--axis", "bath"], "--axis=bath: unknown; known: data, batch, width, depth, size, threads"),
        (["--values", "1,2"], "--values=1,2: needs one --axis of data, batch, width, depth"),
        (["--axis", "roofline", "--values", "1"], "--values=1: needs one --axis of data"),
        (["--axis", "batch", "--values", "0,1"], "must be whole numbers, comma-separated, of at least 1"),
        (["--axis", "size", "--values", "8"], "--values=8: must be whole numbers, comma-separated"),
        (["--axis", "batch", "--values", "some"], "--values=some: must be whole numbers"),
        (["--limit", "0"], "--limit=0: must be above 0"),
        (["--rounds", "0"], "--rounds=0: must be at least 1"),
        (["--folder", "nowhere"], "--folder=nowhere: there is no such folder"),
        (["--algorithm", "fusd"], "did you mean 'fused'?"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_one_message(
    command: Command, arguments: list[str], message: str
) -> None:
    done = command("cnnexp.bench", "scale", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
