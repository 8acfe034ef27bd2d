"""The config tree: every choice composes, and every mistake gets one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cnnexp.config import Composer, ConfigError, conf_dir, plain_config
from cnnexp.config.build import build_job, check_job
from cnnexp.config.resolvers import register_resolvers
from cnnexp.ops import AUTO, algorithm_names, op_names
from tests.config.own_files import NEED_FILES, settings_with_files
from tests.data.official_files import WRITERS
from tests.data.picture_files import write_pictures

GROUPS = {
    group.name: sorted(file.stem for file in group.glob("*.yaml"))
    for group in conf_dir().iterdir()
    if group.is_dir() and group.name != "hydra"
}
NEED_GPU = ("accelerator=gpu", "accelerator=ddp", "accelerator=fsdp", "accelerator=mps")
CHOICES = [f"{group}={choice}" for group, choices in GROUPS.items() for choice in choices]


@pytest.fixture(autouse=True)
def _no_mnist(empty_folder: Path) -> None:
    register_resolvers()


def _compose(*overrides: str) -> dict[str, object]:
    # no download is tried in tests
    return plain_config(Composer("train").compose(["data.download=false", *overrides]))


def test_the_groups_of_this_version_are_there() -> None:
    assert set(GROUPS) >= {
        "data", "model", "backward", "optimizer", "scheduler", "regularization", "accelerator",
        "logger",
    }  # fmt: skip
    assert len(CHOICES) >= 20


def test_backward_offers_exactly_the_registered_algorithms() -> None:
    known = {name for op in op_names() for name in algorithm_names(op)}
    assert GROUPS["backward"] == sorted(known | {AUTO})


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_checks_and_builds(
    choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if choice in ("logger=wandb", "logger=mlflow"):
        pytest.importorskip(choice.partition("=")[2])
    overrides = [choice]
    if choice.removeprefix("data=") in WRITERS:
        WRITERS[choice.removeprefix("data=")](tmp_path, monkeypatch)
        overrides += [f"data.root={tmp_path}", "data.val_size=5"]
        overrides += ["data.split=letters"] if choice == "data=emnist" else []
    if choice == "experiment=fast_cifar10":  # a recipe for images that no test downloads
        WRITERS["cifar10"](tmp_path, monkeypatch)
        overrides += [f"data.root={tmp_path}"]
    group, _, name = choice.partition("=")
    if name in NEED_FILES:
        needed = settings_with_files(name, tmp_path)
        overrides += [f"{key}={value}" for key, value in needed.items() if key != group]
    elif choice == "data=image_folder":
        write_pictures(tmp_path / "pictures")
        overrides += ["data.folder=pictures", "data.image_size=28"]
    elif choice not in ("data=digits", "data=synthetic"):
        overrides += ["data.download=false"]
    if choice.startswith("sweep="):  # the digits stand in
        overrides += ["data.train_size=1000", "data.val_size=100"]
    config = plain_config(Composer("train").compose(overrides))
    if choice in NEED_GPU:
        pytest.importorskip("torch")
        import torch

        if not torch.cuda.is_available() or choice == "accelerator=mps":
            with pytest.raises(ConfigError, match=f"{choice}: this machine has (0|no)"):
                build_job(config)
            return
    check_job(build_job(config))


@pytest.mark.parametrize("file", sorted(conf_dir().rglob("*.yaml")), ids=lambda f: f.stem)
def test_every_file_says_in_its_head_what_it_is(file: Path) -> None:
    text = file.read_text(encoding="utf-8").removeprefix("# @package _global_\n")
    assert text.startswith(("# ", "app_name"))


def test_the_defaults_are_the_settings_of_the_article() -> None:
    config = _compose()
    assert config["optimizer"]["_target_"] == "torch.optim.Adam"  # pyright: ignore
    assert config["optimizer"]["lr"] == 1e-3  # pyright: ignore
    assert config["data"]["batch_size"] == 128  # pyright: ignore
    assert config["trainer"]["max_epochs"] == 10  # pyright: ignore
    assert config["scheduler"]["_target_"] is None  # pyright: ignore
    assert config["name"] == "seed_cnn"
    assert "hydra" not in config
    assert yaml.safe_load(yaml.safe_dump(config)) == config  # plain types only


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimizer=adm",
            r"optimizer=adm: unknown choice; known: .*adam, .*sgd\. Did you mean 'adam'\?",
        ),
        ("optimizer.lrr=1", r"optimizer\.lrr=1: there is no key .* Did you mean 'optimizer\.lr'\?"),
        ("optimiser=sgd", r"optimiser=sgd: there is no key .* Did you mean 'optimizer'\?"),
        ("lr=3", r"lr=3: there is no key 'lr' in the config\. Did you mean 'optimizer\.lr'\?"),
        ("data.batch_sise=3", r"Did you mean 'data\.batch_size'\?"),
        ("trainer.limit_train_batches=3", r"takes it: add \+trainer\.limit_train_batches=3"),
        ("data.root=null data=digits", r"there is no key 'data\.root' in the config\.$"),
        ("optimizer=adam,sgd", r"to run each value, add -m"),
        ("optimizer", r"cannot read 'optimizer' .*; write group=choice or key=value"),
    ],
)
def test_a_bad_override_gets_one_sentence(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Composer("train").compose(override.split())
    assert "\n" not in str(caught.value)


def test_an_interpolation_that_leads_nowhere_gets_one_sentence() -> None:
    with pytest.raises(ConfigError, match="nothing"):
        _compose("name=${nothing}")


def test_a_folder_of_ones_own_adds_choices(tmp_path: Path) -> None:
    (tmp_path / "mine" / "optimizer").mkdir(parents=True)
    (tmp_path / "mine" / "optimizer" / "slow.yaml").write_text(
        "_target_: torch.optim.SGD\nlr: 1e-5\n"
    )
    composer = Composer("train", config_dir=str(tmp_path / "mine"))
    assert composer.compose(["optimizer=slow"]).optimizer.lr == 1e-5
    assert composer.compose(["optimizer=adam"]).optimizer.lr == 1e-3
    with pytest.raises(ConfigError, match="--config-dir=nowhere: there is no such folder"):
        Composer("train", config_dir="nowhere")


def test_the_jobs_of_a_sweep() -> None:
    composer = Composer("train")
    jobs = composer.jobs(["optimizer=adam,sgd", "seed=range(3)", "hydra.sweep.dir=x"])
    assert jobs.complete
    assert len(jobs.overrides) == 6
    assert jobs.overrides[0] == ["optimizer=adam", "seed=0", "hydra.sweep.dir=x"]
    assert len(composer.jobs(["model=glob(*)"]).overrides) == len(GROUPS["model"])
    with pytest.raises(ConfigError, match=r"lr=interval\(0,1\): Hydra's own sweeper tries listed"):
        composer.jobs(["optimizer.lr=interval(0,1)", "seed=3"])
    with pytest.raises(ConfigError, match="cannot read"):
        composer.jobs(["seed"])


def test_a_file_that_is_not_yaml_is_named_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text("lr: 1\nlr: 2\n")
    composer = Composer("train", config_dir=str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"not YAML: .*duplicate key lr in .*mine\.yaml\", line 2"
    ):
        composer.compose(["optimizer=mine"])
