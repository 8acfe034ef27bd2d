"""``init_from``: which weights are meant, in which form they are written down, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.build import build_job, check_job
from cnnexp.config.init_from import in_full
from cnnexp.config.resumption import check_resumable
from cnnexp.models import TinyCNN, torchvision_model
from cnnexp.training.weight_files import file_sha256
from tests.config.tiny_runs import checked, tiny_run

NAME = "ResNet18_Weights.IMAGENET1K_V1"


def _part(*overrides: str) -> dict[str, object]:
    return plain_config(Composer("train").compose(["data=digits", *overrides]))["init_from"]


def _file(name: str = "w.pth") -> str:
    torch.save(TinyCNN(channels=(2, 2)).state_dict(), name)
    return name


def test_the_short_form_is_the_full_one() -> None:
    assert in_full(
        ["init_from=a,b", "init_from.layers=[x]", "init_from={weights: a}", "seed=1"]
    ) == [
        *("init_from.weights=a,b", "init_from.layers=[x]", "init_from={weights: a}", "seed=1"),
    ]


@pytest.mark.usefixtures("empty_folder")
def test_every_form_is_written_down_alike() -> None:
    file = _file()
    expected = {"weights": file, "layers": ["features.0"], "sha256": file_sha256(Path(file))}
    layers = "init_from.layers=[features.0]"
    assert _part(f"init_from={file}", layers) == expected
    assert _part(layers, f"init_from={file}") == expected
    assert _part(f"init_from.weights={file}", layers) == expected
    assert _part("init_from={weights: w.pth, layers: [features.0]}") == expected
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/mine.yaml").write_text("# @package _global_\ninit_from: w.pth\n")
    composed = Composer("train", config_dir="own").compose(["data=digits", "experiment=mine"])
    assert plain_config(composed)["init_from"] == {**expected, "layers": []}


@pytest.mark.usefixtures("empty_folder")
def test_what_is_pinned_is_not_looked_for_again() -> None:
    pinned = ["init_from.weights=gone.pth", f"init_from.sha256={'0' * 64}"]
    assert _part(*pinned) == {"weights": "gone.pth", "layers": [], "sha256": "0" * 64}


def test_a_run_is_named_by_its_folder_its_name_or_latest(empty_folder: Path) -> None:
    run = tiny_run(empty_folder).folder
    place = empty_folder / "outputs" / "train" / "mine" / "one"
    place.parent.mkdir(parents=True)
    run.path.rename(place)
    checksum = file_sha256(place / "checkpoints" / "best.ckpt")
    for name in ("latest", "mine", "outputs/train/mine/one"):
        part = _part(f"init_from={name}")
        assert part == {"weights": "outputs/train/mine/one", "layers": [], "sha256": checksum}
    checked("init_from=latest")


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("init_from=nobody",),
         r"init_from=nobody: holds no run .*or init_from=latest; or a file \(\*\.safetensors, .*DEFAULT"),
        (("init_from=gone.pth",), r"init_from=gone.pth: there is no such file"),
        (("init_from=latest",), r"init_from=latest: there is no run in outputs"),
        (("init_from=",), r"init_from.weights=: must name a run, a file"),
        (("init_from.layers=[a]",), r"init_from.layers: are layers of other weights; name these"),
        (("init_from=w.pth", "init_from.layers=[feature]"),
         r"init_from=w.pth: init_from.layers=\[feature\]: the network has no such layer; its parts are "
         r"classifier, features. Did you mean 'features'\?"),
        (("init_from=w.pth", "init_from.layrs=[x]"), r"no key 'init_from.layrs'.*'init_from.layers'"),
        (("init_from=w.pth", "model.channels=[4,4]"),
         r"init_from=w.pth: features.0.weight has the shape \(2, 1, 3, 3\) there, but \(4, 1, 3, 3\) in "
         r"the network; use the model that it is of"),
        (
            ("init_from=w.pth", 'data.classes=["1","2"]', "data.val_size=4",
             "parameters.frozen=[classifier]"),
            r"the last layer, classifier, does not fit and is made anew, but parameters.frozen keeps"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(overrides: tuple[str, ...], message: str) -> None:
    _file()
    with pytest.raises(ConfigError, match=message):
        checked(*overrides)


@pytest.mark.usefixtures("empty_folder")
def test_torchvisions_weights_come_from_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", "home")
    cache = Path("home/hub/checkpoints")
    cache.mkdir(parents=True)
    torch.save(
        torchvision_model("resnet18", num_classes=1000).state_dict(),
        cache / "resnet18-f37072fd.pth",
    )
    part = _part(f"init_from={NAME}")
    assert part["sha256"] == file_sha256(cache / "resnet18-f37072fd.pth")
    overrides = ["data=synthetic", "data.image_size=32", "data.size=80", "data.val_size=16"]
    model = ["model=torchvision", "accelerator=cpu", "backward=native", f"init_from={NAME}"]
    composed = Composer("train").compose([*overrides, *model])
    with pytest.raises(
        ConfigError, match=r"conv1.weight has the shape \(64, 3, 7, 7\) there, but \(64, 1"
    ):
        check_job(build_job(plain_config(composed)))
    alone = "init_from.layers=[bn1,layer1,layer2,layer3,layer4,fc]"
    check_job(build_job(plain_config(Composer("train").compose([*overrides, *model, alone]))))


@pytest.mark.usefixtures("empty_folder")
def test_offline_torchvisions_weights_are_one_clear_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_HOME", "home")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(
        ConfigError,
        match=rf"init_from={NAME}: is not in home/hub/checkpoints and cannot be fetched \(.*\); put "
        r"resnet18-f37072fd.pth there, or set TORCH_HOME",
    ):
        _part(f"init_from={NAME}")
    assert not list(Path("home").rglob("*.pth"))


def test_torchvisions_weights_that_there_are_not() -> None:
    with pytest.raises(
        ConfigError, match=r"no such weights. It has ResNet18_Weights.IMAGENET1K_V1, "
    ):
        _part("init_from=ResNet18_Weights.V9")
    with pytest.raises(ConfigError, match=r"no such weights. Did you mean 'ResNet18_Weights'\?"):
        _part("init_from=Resnet18_Weights.DEFAULT")


def test_a_run_that_is_resumed_keeps_the_weights_that_it_began_with(empty_folder: Path) -> None:
    _file()
    run = tiny_run(empty_folder, "init_from=w.pth").folder
    config = run.read_config()
    other = {**config, "init_from": {**config["init_from"], "weights": "other.pth"}}
    with pytest.raises(
        ConfigError, match=r"init_from.weights was w.pth and cannot become other.pth"
    ):
        check_resumable(run, other, "")
