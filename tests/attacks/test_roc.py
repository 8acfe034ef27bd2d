"""The curve against its definition, and DeLong's interval against repeated draws."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from cnnexp.attacks import roc


def test_by_hand() -> None:
    curve = roc(torch.tensor([4.0, 3.0, 1.0]), torch.tensor([2.0, 1.0]))
    assert curve.true_positives.tolist() == [0, 1, 2, 2, 3]
    assert curve.false_positives.tolist() == [0, 0, 0, 1, 2]
    # of the six pairs five and a half are in order: the equal scores count half
    assert curve.auc == pytest.approx((2 + 2 + 0.5) / 6)
    rate = curve.rate_at(0.49)
    assert (rate.value, rate.false_positives) == (2 / 3, 0)
    assert curve.rate_at(0.5).false_positives == 1
    assert curve.as_dict()["true_positives"] == [0, 2, 2, 3]  # the corners alone


@pytest.mark.parametrize("ties", [False, True])
def test_against_scikit_learn(ties: bool) -> None:
    members, others = torch.randn(300) + 0.7, torch.randn(200)
    if ties:
        members, others = members.round(), others.round()
    curve = roc(members, others)
    truth = torch.cat([torch.ones(300), torch.zeros(200)])
    scores = torch.cat([members, others])
    assert curve.auc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert (curve.false_positives / 200).tolist() == pytest.approx(false.tolist())
    assert (curve.true_positives / 300).tolist() == pytest.approx(true.tolist())


def test_the_interval_holds_in_95_of_100_draws() -> None:
    true_area = 0.5 * (1 + math.erf(0.8 / 2))  # P[N(0.8, 1) > N(0, 1)]
    inside = 0
    for _ in range(300):
        low, high = roc(torch.randn(80) + 0.8, torch.randn(60)).auc_interval()
        inside += low <= true_area <= high
    assert 0.91 <= inside / 300 <= 0.99


def test_scores_that_tell_all_or_nothing() -> None:
    assert roc(torch.ones(3), torch.zeros(4)).auc == 1.0
    nothing = roc(torch.ones(3), torch.ones(4))
    assert (nothing.auc, nothing.rate_at(0.01).value) == (0.5, 0.0)
    with pytest.raises(ValueError, match="0 members and 4 non-members: need one of each at least"):
        roc(torch.empty(0), torch.ones(4))
    with pytest.raises(ValueError, match="scores that are numbers"):
        roc(torch.tensor([math.nan]), torch.ones(4))


def test_few_that_stand_apart_are_no_certainty() -> None:
    """Two against two stand so by chance in one case of six, of which half is this order."""
    apart = roc(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]))
    assert apart.auc == 1.0
    assert apart.auc_interval() == (pytest.approx(0.025**0.5), 1.0)
    turned = roc(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    assert turned.auc_interval() == (0.0, pytest.approx(1 - 0.025**0.5))
    many = roc(torch.arange(100.0) + 100, torch.arange(100.0))
    assert many.auc_interval()[0] > 0.96
    for members, others in (([1.0], [0.0, 2.0]), ([1.0, 2.0], [3.0])):
        assert roc(torch.tensor(members), torch.tensor(others)).auc_interval() == (0.0, 1.0)
