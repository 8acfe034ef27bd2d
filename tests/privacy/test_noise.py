from __future__ import annotations

import copy
import io
import math
import os
import pickle
import sys
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from cnnexp.privacy import GaussianNoise, PrivacyExtraError, SecureNoise, SeededNoise
from cnnexp.privacy.noise import _BLOCK

COUNT = 200_000


@pytest.fixture(params=[1, 2, 4], ids="terms={}".format)
def seeded(request: pytest.FixtureRequest) -> SeededNoise:
    return SeededNoise(11, terms=request.param)


def _is_standard_normal(draws: Tensor, least: float) -> None:
    n = len(draws)
    deviations = [
        draws.mean() * n**0.5,
        (draws.square().mean() - 1) * (n / 2) ** 0.5,
        (draws**3).mean() * (n / 15) ** 0.5,
        ((draws**4).mean() - 3) * (n / 96) ** 0.5,
    ]
    assert all(2 * stats.norm.sf(abs(float(z))) > least for z in deviations), deviations
    assert stats.kstest(draws.numpy(), "norm").pvalue > least


def test_seeded_draws_are_standard_normal(seeded: SeededNoise) -> None:
    _is_standard_normal(seeded.normal(COUNT, step=0), 0.01)


def test_secure_draws_are_standard_normal() -> None:
    _is_standard_normal(SecureNoise().normal(COUNT, step=0), 1e-8)


def _correlation(a: Tensor, b: Tensor) -> float:
    return float((a * b).mean() * len(a) ** 0.5)  # of variance 1


def test_steps_seeds_and_partners_are_independent(seeded: SeededNoise) -> None:
    draws = seeded.normal(COUNT, step=3)
    half = min(_BLOCK, COUNT) // 2
    for other in (
        seeded.normal(COUNT, step=4),
        SeededNoise(12, seeded.terms).normal(COUNT, step=3),
        draws.roll(1),
    ):
        assert abs(_correlation(draws, other)) < 4
        assert abs(_correlation(draws.square() - 1, other.square() - 1)) < 4 * 2
    cosine, sine = draws[:half], draws[half : 2 * half]  # made of the same words
    assert abs(_correlation(cosine, sine)) < 4
    assert abs(_correlation(cosine.square() - 1, sine.square() - 1)) < 4 * 2


def test_the_tails_are_those_of_a_normal_distribution() -> None:
    draws = torch.cat([SeededNoise(1).normal(COUNT, step=step) for step in range(5)]).abs()
    for limit in (3.0, 4.0):
        expected = 2 * stats.norm.sf(limit) * len(draws)
        assert abs(int((draws > limit).sum()) - expected) < 4 * expected**0.5


def test_seeded_bits_follow_from_seed_and_step(seeded: SeededNoise) -> None:
    count = 2 * _BLOCK + 3
    draws = seeded.normal(count, step=7)
    seeded.normal(10, step=8)
    assert torch.equal(seeded.normal(count, step=7), draws)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert torch.equal(SeededNoise(11, seeded.terms).normal(count, step=7), draws)
    finally:
        torch.set_num_threads(threads)


def test_secure_draws_differ_always() -> None:
    one, other = SecureNoise(), SecureNoise()
    draws = [noise.normal(5, step=0) for noise in (one, one, other)]
    assert len({tuple(each.tolist()) for each in draws}) == 3


@pytest.mark.parametrize("count", [0, 1, 2, 3, _BLOCK, _BLOCK + 1])
def test_any_number_of_draws(count: int) -> None:
    draws = SeededNoise(0).normal(count, step=0)
    assert draws.shape == (count,)
    assert bool(draws.isfinite().all())


def _gradients(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = ((8, 3, 5, 5), (8,), (40, 80), (0, 4), ())
    made = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    return [made[0].contiguous(memory_format=torch.channels_last), *made[1:]]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16], ids=lambda d: str(d)[6:]
)
def test_noise_is_added_once_in_double_precision_and_rounded(dtype: torch.dtype) -> None:
    stds = [0.75, 3e-9, 2.0, 1.0, 1e5]
    before, after = _gradients(dtype), _gradients(dtype)
    SeededNoise(3).add_(after, stds, step=9)
    noise = SeededNoise(3).normal(sum(g.numel() for g in before), step=9)
    parts = noise.split([g.numel() for g in before])
    for old, new, part, std in zip(before, after, parts, stds, strict=True):
        grid = 2.0 ** (math.floor(math.log2(std)) - 20)
        exact = old.double() + std * part.view(old.shape)
        assert torch.equal(new, ((exact / grid).round() * grid).to(dtype))
        assert new.stride() == old.stride()
        if dtype == torch.float64:
            assert float((new - exact).abs().max().nan_to_num() if new.numel() else 0) <= grid / 2


def test_no_noise_leaves_the_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = _gradients(), _gradients()
    SeededNoise(3).add_(after, [0.0, 1.0, 0.0, 0.0, 0.0], step=0)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [
        True,
        False,
        True,
        True,
        True,
    ]
    monkeypatch.setattr(SeededNoise, "_stream", None)  # nothing is drawn
    SeededNoise(3).add_(before, 0.0, step=0)


def test_the_last_bits_tell_nothing_of_the_gradient() -> None:
    # where a gradient is far smaller than the noise, a sum in float32 keeps bits of it near zero
    plain = torch.full((COUNT,), 1e-9)
    small = plain.clone()
    SeededNoise(3).add_([small], 1.0, step=0)
    assert bool((small * 2**20 == (small * 2**20).round()).all())
    noise = SeededNoise(3).normal(COUNT, step=0).float()
    assert not bool(((plain + noise) * 2**20 == ((plain + noise) * 2**20).round()).all())


def test_the_key_is_in_nothing_that_can_be_written() -> None:
    noise = SecureNoise()
    assert repr(noise) == "SecureNoise(terms=2)"
    for write in (pickle.dumps, copy.copy, copy.deepcopy, lambda n: torch.save(n, io.BytesIO())):
        with pytest.raises(TypeError, match="cannot be copied or pickled, since its key leaves no"):
            write(noise)
    assert not any(isinstance(value, bytes) and any(value) for value in vars(noise).values())


def test_a_forked_process_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = SecureNoise()
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + 1)
    key = noise._encryptor
    noise.normal(2, step=0)
    assert noise._encryptor is not key


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SeededNoise(0, terms=0), r"terms=0: must be ≥ 1"),
        (lambda: SeededNoise(0).normal(1, step=-1), r"step=-1: must be ≥ 0"),
        (lambda: SeededNoise(0).add_([torch.ones(1)], -1, step=0), r"std=-1: must be a finite"),
        (lambda: SeededNoise(0).add_([torch.ones(1)], math.nan, step=0), r"std=nan: must be"),
        (lambda: SeededNoise(0).add_([torch.ones(1)], [], step=0), r"0 standard dev.* 1 grad"),
    ],
)
def test_values_out_of_range(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("make", [SecureNoise, lambda: SeededNoise(0)])
def test_a_missing_extra_is_named(
    make: Callable[[], GaussianNoise], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
    with pytest.raises(PrivacyExtraError, match=r'pip install "cnnexp\[privacy\]"'):
        make().normal(1, step=0)
