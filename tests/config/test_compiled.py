"""What torch.compile cannot be part of is refused before anything runs."""

from __future__ import annotations

import pytest

from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.build import build_job


def _build(*overrides: str) -> object:
    small = ["data=digits", "model=tiny", "accelerator=cpu"]
    return build_job(plain_config(Composer("train").compose([*small, *overrides])))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("privacy=dp_sgd optimizer=sgd", "compile=on: does not go with privacy: it clips"),
        ("accelerator=ddp_cpu", "compile=on: does not go with accelerator=ddp_cpu"),
        ("debug=profile", "compile=on: does not go with debug=profile: it times each layer"),
        ("compile.chosen=true", "compile.chosen goes with compile.name=auto, not on"),
        ("compile.name=perhaps", "compile.name=perhaps: must be one of off, on, auto"),
    ],
)
def test_what_does_not_go_with_it(overrides: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _build("compile=on", *overrides.split())


@pytest.mark.parametrize("value", ["0", "-3", "often", "1.5"])
def test_steps_per_call_are_a_whole_number_or_auto(value: str) -> None:
    with pytest.raises(ConfigError, match=r"accelerator\.steps_per_call"):
        _build(f"accelerator.steps_per_call={value}")


def test_both_reach_the_job() -> None:
    job = _build("compile=auto", "accelerator.steps_per_call=auto")
    assert (vars(job)["compile"], vars(job)["steps_per_call"]) == ("auto", "auto")
