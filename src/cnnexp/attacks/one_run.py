"""A lower bound on ε from one training: the audit of Steinke, Nasr & Jagielski (2023).

Each of m canaries is trained on or not, by a fair coin of its own. Afterwards the auditor guesses r of the
coins. If the training is (ε, δ)-private under the addition or removal of an example, the number W of right
guesses obeys ("Privacy Auditing with One (1) Training Run", theorem 5.2)

    P[W ≥ v] ≤ f(v) + 2 m δ max_{i ≥ 1} (f(v − i) − f(v)) / i,    f(v) = P[Binomial(r, q) ≥ v],

with q = 1 / (1 + e^−ε), the accuracy of randomised response. Every ε for which the right-hand side is below
1 − confidence is thus refuted. With m canaries and no wrong guess the bound is near log(m / 5): the audit of
a training with a larger ε needs more canaries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# The shares of the canaries that are guessed, each tried. They are fixed before anything is seen, and the
# error that is allowed is divided by how many they are (Bonferroni), so that the best bound of them holds.
SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)
_LARGEST = 64.0  # the greatest ε that is looked for

Scorer = Callable[[Tensor, Tensor], Tensor]


class Training(Protocol):
    """A training as the audit sees it."""

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> Scorer:
        """Train on ``images`` (N, …) and ``labels`` (N,).

        Returns:
            A function that gives each of some images and labels a score, the higher the more it looks
            trained on; for example minus the loss.
        """
        ...


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        epsilon: The lower bound on ε, ≥ 0.
        delta: The δ at which it holds.
        confidence: The probability, at least, that such a bound is not above the true ε.
        canaries: How many canaries there were.
        guesses: How many coins were guessed for the bound.
        correct: How many of the guesses were right.
    """

    epsilon: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int

    def refutes(self, claimed: float) -> bool:
        """Whether the training cannot be private with the ε that is ``claimed``."""
        return self.epsilon > claimed

    def __str__(self) -> str:
        return (
            f"ε ≥ {self.epsilon:.2f} with {self.confidence:.0%} confidence at δ = {self.delta:g} "
            f"({self.correct:,} of {self.guesses:,} guesses right, {self.canaries:,} canaries)"
        )


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float = 0.0) -> float:
    """The greatest probability of so many ``correct`` guesses under (``epsilon``, ``delta``)-privacy.

    Args:
        canaries: How many examples had a coin, m.
        guesses: How many of the coins were guessed, r ≤ m.
        correct: How many of the guesses were right, v ≤ r.
        epsilon: The ε of the hypothesis, ≥ 0.
        delta: Its δ, in [0, 1].

    Raises:
        ValueError: A range is violated.
    """
    if not 0 <= correct <= guesses <= canaries or epsilon < 0 or not 0 <= delta <= 1:
        raise ValueError(
            f"correct={correct}, guesses={guesses}, canaries={canaries}, epsilon={epsilon}, delta={delta}: "
            f"need 0 ≤ correct ≤ guesses ≤ canaries, epsilon ≥ 0 and delta in [0, 1]"
        )
    right = -math.log1p(math.exp(-epsilon))  # log q
    wrong = right - epsilon  # log (1 − q)
    counts = torch.arange(guesses + 1, dtype=torch.float64)
    ways = math.lgamma(guesses + 1) - (counts + 1).lgamma() - (guesses - counts + 1).lgamma()
    mass = (ways + counts * right + (guesses - counts) * wrong).exp()  # P[Binomial(r, q) = j]
    tail = float(mass[correct:].sum())
    if delta and correct:
        steps = mass[:correct].flip(0).cumsum(0)  # f(v − i) − f(v) for i = 1, 2, …
        slope = float((steps / torch.arange(1, correct + 1, dtype=torch.float64)).max())
        tail += 2 * canaries * delta * slope
    return min(1.0, tail)


def epsilon_bound(
    canaries: int, guesses: int, correct: int, *, delta: float = 0.0, confidence: float = 0.95
) -> float:
    """The least ε that so many ``correct`` guesses do not refute, to 1e-6 below; 0 if they refute none.

    Examples:
        >>> round(epsilon_bound(1000, 1000, 750), 2)  # randomised response with ε = log 3 = 1.10
        0.98
    """
    allowed = 1 - confidence
    if p_value(canaries, guesses, correct, 0.0, delta) >= allowed:
        return 0.0
    low, high = 0.0, _LARGEST
    while high - low > 1e-6:
        middle = (low + high) / 2
        if p_value(canaries, guesses, correct, middle, delta) < allowed:
            low = middle
        else:
            high = middle
    return low


def audit_scores(
    scores: Tensor,
    included: Tensor,
    *,
    delta: float = 0.0,
    confidence: float = 0.95,
    shares: Sequence[float] = SHARES,
) -> Audit:
    """The best bound from the canaries' scores and coins.

    The canaries with the highest scores are guessed to be trained on, as many with the lowest not to be;
    the others are left out. Scores must not depend on the coins but through the training.

    Args:
        scores: (M,) scores, the higher the more a canary looks trained on.
        included: (M,) bool: whether each was trained on, by a fair coin of its own.
        delta: The δ of the bound.
        confidence: The probability that the bound holds, in (0, 1).
        shares: The shares of the canaries that are guessed; all are tried, and pay for it.

    Raises:
        ValueError: There are fewer than two canaries, a score is NaN, or the confidence is no probability.
    """
    m = len(scores)
    if m < 2 or included.shape != scores.shape or bool(scores.isnan().any()):
        raise ValueError(
            f"{m} scores and {len(included)} coins: need two canaries at least, a coin for each, and "
            f"scores that are numbers"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be between 0 and 1, such as 0.95")
    order = scores.argsort(stable=True)
    each = 1 - (1 - confidence) / len(shares)
    best = Audit(0.0, delta, confidence, m, 0, 0)
    most = max(
        1, m // 2 - math.isqrt(m)
    )  # two standard deviations: the coins are not even to the one
    for half in sorted({max(1, min(most, int(share * m) // 2)) for share in shares}, reverse=True):
        correct = int(included[order[-half:]].sum()) + int((~included[order[:half]]).sum())
        found = epsilon_bound(m, 2 * half, correct, delta=delta, confidence=each)
        if found > best.epsilon or not best.guesses:
            best = Audit(found, delta, confidence, m, 2 * half, correct)
    return best


def audit_training(
    train: Training,
    kept: tuple[Tensor, Tensor],
    canaries: tuple[Tensor, Tensor],
    *,
    delta: float,
    confidence: float = 0.95,
    seed: int = 0,
) -> Audit:
    """Train once, with about half of the canaries, and bound ε from below.

    Args:
        train: The training; it gets the kept examples, then those canaries that are trained on.
        kept: The images (N, …) and labels (N,) that are trained on in any case.
        canaries: The images (M, …) and labels (M,) that a coin decides about.
        delta: The δ that the training claims.
        confidence: The probability that the bound holds.
        seed: The seed of the coins; the training gets it as well.
    """
    images, labels = canaries
    included = coins(len(labels), seed)
    scorer = train(
        torch.cat([kept[0], images[included]]), torch.cat([kept[1], labels[included]]), seed
    )
    return audit_scores(scorer(images, labels), included, delta=delta, confidence=confidence)


def coins(count: int, seed: int) -> Tensor:
    """(count,) fair coins, bool, of this seed."""
    return torch.randint(2, (count,), generator=torch.Generator().manual_seed(seed)).bool()


def wrong_labels(labels: Tensor, classes: int, seed: int) -> Tensor:
    """For each of ``labels`` (N,) another one, each of the ``classes`` − 1 others being as likely."""
    generator = torch.Generator().manual_seed(seed)
    return (labels + torch.randint(1, classes, labels.shape, generator=generator)) % classes
