from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cnnexp.data import BatchSlice, Draws, seeded_generator
from cnnexp.regularization import CutMix, MixUp, mix


def _batch(n: int = 6) -> tuple[Tensor, Tensor]:
    """Images that show their class in every pixel."""
    labels = torch.arange(n) % 3
    return labels.float().view(n, 1, 1, 1).expand(n, 2, 8, 10).clone(), labels


def _draws(seed: int, share: BatchSlice | None = None) -> Draws:
    return Draws(seeded_generator(seed), 6, share)


@pytest.mark.parametrize("mixer", [MixUp(1.0), CutMix(1.0)], ids=lambda m: m.name)
def test_targets_are_the_shares_of_what_the_images_show(mixer: MixUp | CutMix) -> None:
    for seed in range(20):
        images, labels = _batch()
        mixed, targets = mix([mixer], images, labels, 3, _draws(seed))
        assert mixed.shape == images.shape
        torch.testing.assert_close(targets.sum(1), torch.ones(6))
        shown = (targets * torch.arange(3.0)).sum(1)
        torch.testing.assert_close(mixed.mean((1, 2, 3)), shown, atol=1e-5, rtol=1e-5)


def test_mixup_blends_every_pixel_and_cutmix_none() -> None:
    images, labels = _batch()
    blended, _ = mix([MixUp(1.0)], images, labels, 3, _draws(1))
    patched, _ = mix([CutMix(1.0)], images, labels, 3, _draws(1))
    assert (blended != blended.round()).any()
    assert torch.equal(patched, patched.round())


def test_one_of_several_is_drawn_and_a_seed_repeats_it() -> None:
    kinds = set()
    for seed in range(12):
        images, labels = _batch()
        one, targets = mix([MixUp(1.0), CutMix(1.0)], images, labels, 3, _draws(seed))
        again = mix([MixUp(1.0), CutMix(1.0)], images, labels, 3, _draws(seed))
        assert torch.equal(one, again[0])
        assert torch.equal(targets, again[1])
        kinds.add(torch.equal(one, one.round()))
    assert kinds == {True, False}


def test_the_input_is_left_alone() -> None:
    images, labels = _batch()
    before = images.clone()
    mix([CutMix(1.0)], images, labels, 3, _draws(0))
    assert torch.equal(images, before)


@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_alpha_must_be_positive(kind: type[MixUp] | type[CutMix]) -> None:
    with pytest.raises(ValueError, match=rf"regularization\.{kind.name}\.alpha must be above 0"):
        kind(0.0)


@pytest.mark.parametrize("mixer", [MixUp(1.0), CutMix(1.0)], ids=lambda m: m.name)
def test_processes_that_share_a_batch_mix_it_as_one(mixer: MixUp | CutMix) -> None:
    images, labels = _batch()
    expected = mix([mixer], images, labels, 3, _draws(7))
    shares = [BatchSlice.of_rank(6, rank, 4) for rank in range(4)]
    parts = [slice(s.start, s.start + s.images) for s in shares]
    mixed = [
        mix([mixer], images[part], labels[part], 3, _draws(7, share), (images, labels))
        for part, share in zip(parts, shares, strict=True)
    ]
    for whole, *shared in zip(expected, *mixed, strict=True):
        torch.testing.assert_close(torch.cat(shared), whole)
