"""``python -m cnnexp.train init_from=…`` in an empty folder, with a network of the user's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from cnnexp.runs import RunFolder
from tests.conftest import Command

MODULE = '''
from torch import nn


class Mine(nn.Sequential):
    """A small network of the user's own."""

    def __init__(self, in_channels: int, num_classes: int, width: int = 4) -> None:
        super().__init__(
            nn.Conv2d(in_channels, width, 5, stride=4),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * width, num_classes),
        )
'''
TRAIN = (
    *("cnnexp.train", "--config-dir", "own", "model=mine", "allow_targets=[mine.]", "data=digits"),
    *(
        "accelerator=cpu",
        "backward=direct",
        "diagnostics=off",
        "logger=csv",
        "trainer.max_epochs=1",
    ),
)


@pytest.fixture
def own(empty_folder: Path) -> Path:
    (empty_folder / "mine.py").write_text(MODULE)
    (empty_folder / "own/model").mkdir(parents=True)
    (empty_folder / "own/model/mine.yaml").write_text(
        "# A small one\n_target_: mine.Mine\nwidth: 4\n"
    )
    layers = [nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(16, 1000))
    network.get_buffer("1.running_mean").fill_(0.25)
    torch.save({"state_dict": network.state_dict()}, empty_folder / "stranger.pth")
    return empty_folder


def test_a_strangers_file_then_the_run_then_a_sweep_from_it(command: Command, own: Path) -> None:
    first = command(
        *TRAIN, "init_from=stranger.pth", "parameters.frozen=[0,1]", "hydra.run.dir=one"
    )
    assert first.returncode == 0, first.stderr
    line = "starts from stranger.pth: 7 of 9 tensors; the last layer, 5, is made anew ("
    assert f"{line}(1000, 16) there, (10, 16) here)\n" in first.stdout
    state = torch.load(own / "one/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    stranger = torch.load(own / "stranger.pth", weights_only=True)["state_dict"]
    for name in ("0.weight", "1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(state[f"network.{name}"], stranger[name]), name

    sweep = command(*TRAIN, "-m", "sweep.name=s", "init_from=one,stranger.pth", "optimizer.lr=1e-9")
    assert sweep.returncode == 0, sweep.stderr + sweep.stdout
    jobs = sorted(own.glob("outputs/sweeps/s/*/config.yaml"))
    assert len(jobs) == 2
    (own / "stranger.pth").unlink()
    shutil.rmtree(own / "one")

    best = command(*TRAIN, "init_from=s:best", "init_from.layers=[0]", "hydra.run.dir=two")
    assert best.returncode == 0, best.stderr
    assert "starts from outputs/sweeps/s/" in best.stdout
    assert ": 2 of 9 tensors\n" in best.stdout
    named = RunFolder("two").read_config()["init_from"]
    assert named["weights"] in [str(each.parent.relative_to(own)) for each in jobs]
    again = command("cnnexp.train", "run=two", "trainer.max_epochs=2", "allow_targets=[mine.]")
    assert again.returncode == 0, again.stderr


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("init_from=strange.pth",), "init_from=strange.pth: there is no such file"),
        (("init_from=stranger.pth", "model.width=8"),
         "0.weight has the shape (4, 1, 5, 5) there, but (8, 1, 5, 5) in the network"),
        (("init_from=mine.py",), "init_from=mine.py: holds no run"),
        (("-m", "init_from=latest", "seed=1,2"), "is another run once the sweep has begun; name the run"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message_and_leaves_nothing(
    arguments: tuple[str, ...], message: str, command: Command, empty_folder: Path
) -> None:
    done = command(*TRAIN, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("cnnexp.train: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (empty_folder / "outputs").exists()


def test_help_names_it(command: Command) -> None:
    assert "python -m cnnexp.train init_from=latest" in command("cnnexp.train", "--help").stdout
