"""Membership scores on confidences whose distributions are known."""

from __future__ import annotations

import pytest
import torch

from cnnexp.attacks import likelihood_ratios, roc
from cnnexp.attacks.membership import ENOUGH_FOR_OWN
from cnnexp.attacks.shadows import design


def test_the_ratio_by_hand() -> None:
    inside = torch.tensor([[True], [True], [False], [False]])
    shadows = torch.tensor([[4.0], [6.0], [0.0], [2.0]])  # means 5 and 1, variances 2
    found = likelihood_ratios(torch.tensor([4.0]), shadows, inside)
    assert found.item() == pytest.approx(-((4 - 5) ** 2) / 4 + (4 - 1) ** 2 / 4)


@pytest.mark.parametrize("shadows", [8, ENOUGH_FOR_OWN])
def test_images_of_unlike_difficulty_are_told_apart(shadows: int) -> None:
    images = 400
    hardness = 4 * torch.randn(images)  # which hides membership from one threshold for all
    inside = design(images, shadows, 0)
    seen = hardness + 2 * inside + 0.7 * torch.randn(shadows, images)
    member = torch.arange(images) < images // 2
    target = hardness + 2 * member + 0.7 * torch.randn(images)
    ratios = likelihood_ratios(target, seen, inside)
    assert roc(ratios[member], ratios[~member]).auc > 0.95
    assert roc(target[member], target[~member]).auc < 0.7


def test_variances_of_its_own_are_used_with_many_shadows() -> None:
    inside = design(2, ENOUGH_FOR_OWN, 0)
    spread = torch.tensor([0.1, 3.0])
    seen = 2.0 * inside + spread * torch.randn(ENOUGH_FOR_OWN, 2)
    target = torch.tensor([2.0, 2.0])
    own = likelihood_ratios(target, seen, inside)
    assert own[0] > 50 * own[1].abs()
    few = likelihood_ratios(target, seen[: ENOUGH_FOR_OWN - 2], inside[: ENOUGH_FOR_OWN - 2])
    assert few[0] < 10


def test_too_few_shadows_are_refused() -> None:
    inside = torch.tensor([[True], [False], [False]])
    with pytest.raises(ValueError, match="in, or out of, 1 of 3 shadows: need 2 at least"):
        likelihood_ratios(torch.zeros(1), torch.zeros(3, 1), inside)


def test_each_image_is_in_half_of_the_shadows() -> None:
    inside = design(50, 6, seed=1)
    assert inside.sum(0).tolist() == [3] * 50
    assert torch.equal(inside, design(50, 6, seed=1))
    assert not torch.equal(inside, design(50, 6, seed=2))
