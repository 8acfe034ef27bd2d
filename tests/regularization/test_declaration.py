"""A regulariser declares itself: one file with its knobs, its method and its place, and one YAML file."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest
import yaml

import cnnexp.regularization
from cnnexp.config import Composer, ConfigError, conf_dir, plain_config
from cnnexp.config.build import build_job
from cnnexp.config.regularization import regularization_schema
from cnnexp.regularization import EVENTS, REGULARIZERS, Regularizer, find_regularizers, takes_part
from tests.test_extending import FILES

CHOICES = {
    file.stem: yaml.safe_load(text)
    for file in sorted((conf_dir() / "regularization").glob("*.yaml"))
    if not (text := file.read_text(encoding="utf-8")).startswith("# @package _global_")
}


@pytest.mark.parametrize("name", REGULARIZERS)
def test_each_is_a_dataclass_with_a_place_and_a_choice_of_its_own(name: str) -> None:
    kind = REGULARIZERS[name]
    assert dataclasses.is_dataclass(kind)
    assert kind.__doc__ is not None
    assert any(takes_part(kind.__new__(kind), event) for event in EVENTS)
    assert any(name in values for values in CHOICES.values())


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_names_regularisers_and_their_knobs(choice: str) -> None:
    for name, knobs in CHOICES[choice].items():
        made = REGULARIZERS[name](**knobs)
        assert isinstance(made, Regularizer)
        assert made.name == name


def test_where_several_take_part_in_an_event_their_order_is_that_of_0_1_0_and_a_flip_before() -> (
    None
):
    chosen = ",".join(name for name in CHOICES if name not in ("swa", "clip_norm", "clip_value"))
    composed = Composer("train").compose([f"regularization=[{chosen}]", "data=digits"])
    job = build_job(plain_config(composed))

    def names(event: str) -> list[str]:
        return [each.name for each in job.regularizers if takes_part(each, event)]

    assert names("penalty") == ["l1", "l2", "elastic_net"]
    assert names("images") == [
        "random_flip",
        "random_elastic",
        "random_rotation",
        "random_shift",
        "random_erasing",
    ]
    assert names("mix") == ["mixup", "cutmix"]
    assert names("callbacks") == ["ema", "early_stopping"]
    assert names("loss") == ["label_smoothing"]
    assert names("gradients") == ["clip"]
    assert names("weights") == ["max_norm"]
    assert len(job.regularizers) == len(REGULARIZERS) - 1


def test_one_file_and_one_yaml_add_a_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class of the guide, put into the package under a name of its own."""
    code = dict(FILES)["mylasso.py"].replace(
        "    strength: float\n", '    name = "lasso"\n\n    strength: float\n'
    )
    (tmp_path / "group_lasso.py").write_text(code, encoding="utf-8")
    choice = tmp_path / "conf" / "regularization" / "lasso.yaml"
    choice.parent.mkdir(parents=True)
    choice.write_text("lasso:\n  strength: 0.5\n", encoding="utf-8")
    package = "cnnexp.regularization"
    monkeypatch.setattr(
        cnnexp.regularization, "__path__", [*cnnexp.regularization.__path__, str(tmp_path)]
    )
    found = find_regularizers(cnnexp.regularization.__path__, package)
    monkeypatch.delitem(sys.modules, f"{package}.group_lasso")
    assert found.keys() - REGULARIZERS.keys() == {"lasso"}
    monkeypatch.setitem(REGULARIZERS, "lasso", found["lasso"])  # pyright: ignore[reportArgumentType]
    regularization_schema.cache_clear()
    try:
        composer = Composer("train", config_dir=str(tmp_path / "conf"))
        start = ["data=digits", "regularization=[l2,lasso]"]
        job = build_job(plain_config(composer.compose(start)))
        assert [each.name for each in job.regularizers] == ["l2", "lasso"]
        with pytest.raises(ConfigError, match=re.escape("regularization.lasso.strength=red: must")):
            build_job(plain_config(composer.compose([*start, "regularization.lasso.strength=red"])))
        with pytest.raises(ConfigError, match="Did you mean 'strength'"):
            build_job(plain_config(composer.compose([*start, "+regularization.lasso.strenght=1"])))
    finally:
        regularization_schema.cache_clear()


def test_two_methods_of_one_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("one_twin", "other_twin"):
        (tmp_path / f"{module}.py").write_text(
            "from cnnexp.regularization import Regularizer\n"
            "class Twin(Regularizer):\n    name = 'twin'\n",
            encoding="utf-8",
        )
        monkeypatch.delitem(sys.modules, f"cnnexp.regularization.{module}", raising=False)
    monkeypatch.setattr(cnnexp.regularization, "__path__", [str(tmp_path)])
    with pytest.raises(ValueError, match=r"regularization\.twin: .*one_twin and .*other_twin both"):
        find_regularizers([str(tmp_path)], "cnnexp.regularization")
