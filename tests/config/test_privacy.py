"""What cannot keep the promise of privacy is refused before anything runs, with the reason."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.build import build_job, check_job
from cnnexp.config.resolvers import register_resolvers
from cnnexp.runs import config_hash

SMALL = [
    "data=digits",
    "data.train_size=64",
    "data.val_size=20",
    "data.batch_size=32",
    "privacy=dp_sgd",
]


def _config(*overrides: str) -> dict:
    return plain_config(Composer("train").compose([*SMALL, *overrides]))


@pytest.fixture(autouse=True)
def _no_mnist(empty_folder: Path) -> None:
    register_resolvers()


REFUSED: dict[tuple[str, ...], str] = {
    ("regularization=mixup",): r"regularization.mixup: it blends images",
    ("regularization=cutmix",): r"regularization.cutmix: it blends images",
    ("optimizer=sam",): r"optimizer: SAM\w* computes the gradient more than once a step",
    ("optimizer=lbfgs",): r"optimizer: L\w+ computes the gradient more than once a step",
    ("optimizer=gd",): "optimizer: full-batch gradient descent takes all images for each step",
    ("+trainer.accumulate_grad_batches=2",): "noise would be added to each part of a step",
    ("+trainer.overfit_batches=1",): "the same batches would come again",
    ("accelerator=fsdp",): "accelerator=fsdp: no process has all of a layer's weights",
    ("accelerator.precision=bf16-mixed",): "norms of gradients in half precision can be too small",
    (
        "accelerator.precision=auto",
        "accelerator.chosen_precision=bf16-mixed",
    ): "accelerator.precision=bf16-mixed: norms of gradients in half precision can be too small",
    ("diagnostics=full",): "it publishes values of single training images",
    ("on_nan=skip",): "whether a step is left out or made again would depend on single images",
    ("on_nan=lower_lr",): "whether a step is left out or made again would depend on single images",
    ("model.init=lsuv",): "it sets the weights by training images",
    (
        "model.norm=batch",
    ): r"model: features\.\S+ \(BatchNorm2d\) computes with the mean of the batch",
    ("privacy.epsilon=0",): r"privacy.epsilon=0.0: must be greater than 0 and finite, or null",
    ("privacy.epsilon=null",): "give the budget or the noise, for example privacy.epsilon=3",
    (
        "privacy.noise_multiplier=-1",
    ): r"privacy.noise_multiplier=-1.0: must be at least 0 and finite",
    ("privacy.delta=1",): r"privacy.delta=1.0: must be between 0 and 1, such as 1e-5",
    ("privacy.clip=0",): r"privacy.clip=0.0: must be greater than 0",
    ("privacy.clip=inf",): "privacy.clip=inf: ",
    (
        "privacy.clipping=layer",
    ): "privacy.clipping=layer: must be one of flat, per_layer, automatic",
    ("privacy.augmentations=0",): "privacy.augmentations=0: must be at least 1",
    ("privacy.accountant=moments",): "privacy.accountant=moments: must be one of pld, rdp",
    ("privacy.sigma=1",): "privacy.sigma: there is no key 'sigma' in privacy",
}


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_it_is_refused_with_the_reason(overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=REFUSED[overrides]):
        check_job(build_job(_config(*("+" * o.startswith("privacy.sigma") + o for o in overrides))))


def test_what_goes_well_with_privacy_is_let_through() -> None:
    fine = [
        "model.norm=group",
        "optimizer=adam",
        "regularization=[ema,random_shift,label_smoothing,l2]",
    ]
    job = build_job(_config(*fine))
    check_job(job)
    assert job.privacy.private
    assert (job.data.sampling, job.data.secret) == ("poisson", True)


def test_a_job_without_privacy_is_the_one_that_it_was() -> None:
    config = plain_config(Composer("train").compose(SMALL[:-1]))
    before = {key: value for key, value in config.items() if key != "privacy"}
    assert config_hash(config) == config_hash(before) != config_hash(_config())
    assert build_job(config).data.sampling == "shuffle"


@pytest.mark.parametrize("package", ["dp_accounting", "cryptography.hazmat.primitives.ciphers"])
def test_a_package_of_the_extra_is_missed_before_a_folder_is_made(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (package, "dp_accounting.pld.privacy_loss_distribution"):
        if name.startswith(package):
            monkeypatch.setitem(sys.modules, name, None)
    # a δ that no other test has: what was accounted is remembered
    noise = "privacy.epsilon=null", "privacy.noise_multiplier=7.654", "privacy.delta=1.2345e-6"
    job = build_job(_config(*noise))
    with pytest.raises(ConfigError, match=r'needs \S+: pip install "cnnexp\[privacy\]"'):
        check_job(job)
