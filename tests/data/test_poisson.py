"""Poisson sampling: who is in which batch, and how a training resumes among them."""

from __future__ import annotations

from itertools import chain, islice
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from cnnexp.data import (
    BatchSlice,
    ImageDataModule,
    LabelledImages,
    PoissonBatches,
    load_digits,
    loader_of,
)
from cnnexp.data.poisson import SharedSecret


def _batches(size: int, batch_size: int, seed: int | None, epoch: int = 0) -> list[Tensor]:
    return list(PoissonBatches(size, batch_size, seed, epoch=epoch))


def _module(**options: Any) -> ImageDataModule:
    return ImageDataModule(load_digits, val_size=137, sampling="poisson", **options)  # 1,300 remain


def test_the_draws_follow_from_seed_epoch_and_batch() -> None:
    def drawn(*place: int) -> list[list[int]]:
        seed, epoch = place
        return [batch.tolist() for batch in _batches(200, 20, seed, epoch)]

    assert drawn(3, 1) == drawn(3, 1)
    places = [(seed, epoch) for seed in (0, 1, 2**32, 2**63) for epoch in (0, 1, 2)]
    assert len({tuple(map(tuple, drawn(*place))) for place in places}) == len(places)
    assert len({tuple(batch) for batch in drawn(0, 0)}) == 10
    # the stream is part of what makes a run repeatable
    assert PoissonBatches(100, 10, 0).batch(0).tolist() == [
        3,
        6,
        15,
        26,
        28,
        35,
        39,
        41,
        42,
        69,
        73,
        79,
        80,
        84,
    ]


@pytest.mark.parametrize("seed", [5, None])
def test_sizes_are_binomial(seed: int | None) -> None:
    size, batch_size = 50, 5
    sizes = [len(b) for epoch in range(400) for b in _batches(size, batch_size, seed, epoch)]
    counts = torch.bincount(torch.tensor(sizes), minlength=12).double()
    likely = stats.binom.pmf(range(12), size, batch_size / size)
    found, expected = counts[:11].tolist(), (likely[:11] * len(sizes)).tolist()
    found.append(float(counts[11:].sum()))
    expected.append(len(sizes) - sum(expected))
    # one in a million where the draws are not fixed
    assert stats.chisquare(found, expected).pvalue > (1e-6 if seed is None else 0.01)


@pytest.mark.parametrize("seed", [6, None])
def test_images_are_drawn_equally_often_and_independently(seed: int | None) -> None:
    size = 40
    member = torch.zeros(4000, size, dtype=torch.float64)
    rows = (batch for epoch in range(400) for batch in _batches(size, 4, seed, epoch))
    for row, batch in zip(member, rows, strict=True):
        assert batch.tolist() == sorted(set(batch.tolist()))  # nobody twice
        row[batch] = 1
    often = member.sum(0)
    chi2 = float(((often - 400) ** 2 / (400 * 0.9)).sum())
    least = 1e-6 if seed is None else 0.01
    assert least < stats.chi2.cdf(chi2, size) < 1 - least
    z = (member - 0.1) / 0.3
    for other, pairs in ((z, 4000), (z.roll(1, 0), 4000)):  # of one batch, and of the next
        correlation = z.T @ other / pairs * pairs**0.5  # of variance 1
        if other is z:
            correlation = correlation[torch.triu(torch.ones(size, size), 1) == 1]
        assert float(correlation.abs().max()) < 6
        assert float(correlation.square().mean()) == pytest.approx(1, abs=0.25)


def test_bits_beyond_the_first_sixteen_decide_where_those_do_not() -> None:
    size = 2**18  # an image is drawn with probability 2⁻¹⁸, of which 16 bits know nothing
    sizes = [
        len(batch) for seed in (7, None) for batch in islice(PoissonBatches(size, 1, seed), 40)
    ]
    assert 35 < sum(sizes) < 130  # of mean 80 and deviation 9


def test_an_epoch_has_as_many_batches_as_a_shuffled_one() -> None:
    for size, batch_size in ((10, 4), (8, 4), (3, 3)):
        batches = PoissonBatches(size, batch_size, 1)
        assert len(list(batches)) == len(batches) == -(-size // batch_size)
        assert batches.rate == batch_size / size
    assert _batches(3, 3, 1)[0].tolist() == [0, 1, 2]  # at rate 1, all are in each


@pytest.mark.parametrize("workers", [0, 2])
def test_empty_batches_arrive(workers: int) -> None:
    data = LabelledImages(torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1), torch.arange(4))
    batches = PoissonBatches(4, 1, 2)
    loader = loader_of(data, batches, num_workers=workers)
    arrived = [(images, labels) for images, labels in loader]
    assert [labels.tolist() for _, labels in arrived] == [b.tolist() for b in batches]
    assert [images.flatten().tolist() for images, _ in arrived] == [b.tolist() for b in batches]
    (empty, *_) = (images for images, labels in arrived if len(labels) == 0)
    assert empty.shape == (0, 1, 1, 1)
    scaled, _ = _module().on_after_batch_transfer((empty, torch.empty(0, dtype=torch.int64)), 0)
    assert scaled.shape == (0, 1, 1, 1)
    assert scaled.dtype == torch.float32


def test_a_resumed_epoch_has_the_batches_that_remain() -> None:
    whole = _module(batch_size=100, shuffle_seed=4)
    loader = whole.train_dataloader()
    assert len(loader) == 13
    epochs = []
    for epoch in (0, 1, 2):
        loader.sampler.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]
        epochs.append([labels.tolist() for _, labels in loader])
    resumed = _module(batch_size=100, shuffle_seed=4)
    resumed.start_at(1, 9)
    loader = resumed.train_dataloader()
    assert [labels.tolist() for _, labels in loader] == epochs[1][9:]
    loader.sampler.set_epoch(2)  # pyright: ignore[reportAttributeAccessIssue]
    assert [labels.tolist() for _, labels in loader] == epochs[2]
    resumed.repeat_first_epoch(True)
    loader = resumed.train_dataloader()
    assert [labels.tolist() for _, labels in loader] == epochs[0][9:]


def test_members_and_share_are_of_the_batch_drawn() -> None:
    module = _module(batch_size=60)
    module.start_at(1, 0)
    assert module.sampling_rate == 60 / 1300
    before = module.share(3)
    for number, (images, labels) in enumerate(module.train_dataloader()):
        members = module.members(1, number)
        whole = module.images.train.batch(members)
        assert torch.equal(images, whole[0])
        assert torch.equal(labels, whole[1])
        assert module.share(number) == BatchSlice(0, len(images), len(images), len(images))
    assert before == module.share(3)


def test_the_slice_of_an_empty_batch_is_empty() -> None:
    share = BatchSlice.of_rank(0, 0, 1)
    assert share == BatchSlice(0, 0, 0, 0)
    assert share.weight(1) == 1


def test_secret_draws_are_of_nobodys_knowledge() -> None:
    module = _module(batch_size=100, secret=True)
    loader = module.train_dataloader()
    first, second = ([labels.tolist() for _, labels in loader] for _ in range(2))
    assert len(first) == len(second) == 13
    assert first != second
    module.start_at(0, 10)
    assert len(list(module.train_dataloader())) == 3
    for call in (lambda: module.members(0, 0), lambda: module.share(0)):
        with pytest.raises(ValueError, match=r"cannot be told again; set data\.secret=false"):
            call()
    module.repeat_first_epoch(True)
    with pytest.raises(ValueError, match=r"secret draws cannot be the same in every epoch; set"):
        module.train_dataloader()


@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_processes_have_each_batch_together(secret: bool, ranks: int) -> None:
    def batches(rank: int, of: int, key: bytes = b"k" * 32) -> PoissonBatches:
        seed = None if secret else 7
        shared = SharedSecret(key) if secret else None
        return PoissonBatches(40, 3, seed, rank=rank, ranks=of, secret=shared)

    one = batches(0, 1)
    whole = [batch.tolist() for _ in range(3) for batch in one]
    samplers = [batches(rank, ranks) for rank in range(ranks)]
    parts = [[batch.tolist() for _ in range(3) for batch in each] for each in samplers]
    for number, batch in enumerate(whole):
        assert [*chain.from_iterable(part[number] for part in parts)] == batch
    assert ranks < 5 or any([] in part for part in parts)
    last = len(samplers[0]) - 1
    shares = [each.share(last) for each in samplers]
    assert [share.own for share in shares] == [len(part[-1]) for part in parts]
    assert {share.of for share in shares} == {len(whole[-1])}
    if secret:
        assert len(set(map(tuple, whole))) > len(samplers[0])  # each epoch has other batches
        assert whole != [
            b.tolist() for e in [batches(0, 1, b"l" * 32)] for _ in range(3) for b in e
        ]


def test_what_poisson_sampling_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"data\.secret=true: 2 processes need one key"):
        _module(secret=True).share_with(0, 2)
    with pytest.raises(ValueError, match="2 processes cannot share batches that each draws"):
        PoissonBatches(20, 5, None, ranks=2)
    with pytest.raises(ValueError, match=r"data\.batch_size=1301: Poisson .* 1 … 1300, the"):
        _module(batch_size=1301).train_dataloader()
    with pytest.raises(ValueError, match=r"data\.sampling='all': must be one of shuffle, poisson"):
        ImageDataModule(load_digits, sampling="all")
    with pytest.raises(ValueError, match=r"data\.secret=true: needs data\.sampling=poisson"):
        ImageDataModule(load_digits, secret=True)
    with pytest.raises(ValueError, match=r"data\.sampling=shuffle: has no sampling rate"):
        _ = ImageDataModule(load_digits).sampling_rate
