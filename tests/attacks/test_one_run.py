"""The audit's bound against its definition, and against mechanisms whose ε is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from cnnexp.attacks import audit_scores, audit_training, epsilon_bound, p_value, wrong_labels
from cnnexp.attacks.canaries import Canaries, draw
from cnnexp.attacks.one_run import SHARES, Scorer, Training, coins
from cnnexp.data import BatchOrder, LabelledImages, PoissonBatches
from cnnexp.privacy import Accountant, Mechanism, SeededNoise


def _tail(trials: int, q: float, least: int) -> float:
    """P[Binomial(trials, q) ≥ least], term by term."""
    counts = range(max(0, least), trials + 1)
    return math.fsum(math.comb(trials, j) * q**j * (1 - q) ** (trials - j) for j in counts)


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct"), [(20, 20, 15), (40, 12, 12), (9, 9, 0), (7, 5, 1)]
)
@pytest.mark.parametrize("delta", [0.0, 1e-3])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
def test_the_p_value_is_that_of_the_theorem(
    canaries: int, guesses: int, correct: int, epsilon: float, delta: float
) -> None:
    q = 1 / (1 + math.exp(-epsilon))
    least = _tail(guesses, q, correct)
    steps = [
        (_tail(guesses, q, correct - i) - least) / i for i in range(1, canaries + 1)
    ]  # all i of the theorem; beyond the guesses they only become smaller
    expected = min(1.0, least + 2 * canaries * delta * max(steps))
    found = p_value(canaries, guesses, correct, epsilon, delta)
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_bound_is_where_the_p_value_is_what_is_allowed() -> None:
    bound = epsilon_bound(500, 200, 170, delta=1e-5, confidence=0.9)
    assert p_value(500, 200, 170, bound, 1e-5) == pytest.approx(0.1, abs=1e-6)
    assert epsilon_bound(500, 200, 105) == 0.0  # as many as guessing gets
    # without a mistake the bound grows with the logarithm of the canaries
    assert epsilon_bound(1000, 1000, 1000) == pytest.approx(math.log(1000 / 3), abs=0.01)
    with pytest.raises(ValueError, match="need 0 ≤ correct ≤ guesses ≤ canaries"):
        p_value(10, 11, 5, 1.0)


_bound = lru_cache(maxsize=None)(epsilon_bound)  # few counts occur in many repetitions


def _bounds(
    monkeypatch: pytest.MonkeyPatch,
    draw: Callable[[Tensor], Tensor],
    canaries: int,
    delta: float,
    repetitions: int,
) -> Tensor:
    """The bounds of so many audits of the mechanism that makes scores of coins."""
    monkeypatch.setattr("cnnexp.attacks.one_run.epsilon_bound", _bound)
    found = []
    for _ in range(repetitions):
        included = torch.rand(canaries) < 0.5
        found.append(audit_scores(draw(included), included, delta=delta).epsilon)
    return torch.tensor(found)


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 2.5])
def test_randomised_response(monkeypatch: pytest.MonkeyPatch, epsilon: float) -> None:
    truthful = 1 / (1 + math.exp(-epsilon))

    def respond(included: Tensor) -> Tensor:
        lies = torch.rand(len(included)) >= truthful
        return (included ^ lies).double()

    found = _bounds(monkeypatch, respond, 2000, 0.0, 100)
    assert (found <= epsilon).double().mean() >= 0.95
    assert found.median() >= epsilon - 0.3  # and is not far below the truth


def _epsilon_of_gaussian(sigma: float, delta: float) -> float:
    """ε of the Gaussian mechanism of sensitivity 1 (Balle & Wang, 2018, theorem 8), by bisection."""

    def spent(epsilon: float) -> float:
        a, b = 1 / (2 * sigma), epsilon * sigma
        phi = [0.5 * math.erfc(-x / math.sqrt(2)) for x in (a - b, -a - b)]
        return phi[0] - math.exp(epsilon) * phi[1]

    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > delta else (low, middle)
    return high


@pytest.mark.parametrize("sigma", [0.6, 1.5])
def test_the_gaussian_mechanism(monkeypatch: pytest.MonkeyPatch, sigma: float) -> None:
    delta = 1e-5
    epsilon = _epsilon_of_gaussian(sigma, delta)
    found = _bounds(
        monkeypatch, lambda coins: coins + sigma * torch.randn(len(coins)), 1000, delta, 100
    )
    assert (found <= epsilon).double().mean() >= 0.95
    assert found.median() > 0.15 * epsilon


def test_nothing_is_found_where_nothing_is_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _bounds(monkeypatch, lambda coins: torch.randn(len(coins)), 500, 1e-5, 200)
    assert (found == 0).double().mean() >= 0.95


def test_the_shares_are_paid_for() -> None:
    included = torch.arange(400) < 200
    scores = included.double()
    found = audit_scores(scores, included)
    assert (found.guesses, found.correct, found.canaries) == (360, 360, 400)
    each = 1 - 0.05 / len(SHARES)
    assert found.epsilon == epsilon_bound(400, 360, 360, confidence=each)
    alone = audit_scores(scores, included, shares=(1.0,))
    assert alone.epsilon > found.epsilon
    assert str(alone) == (
        "ε ≥ 4.78 with 95% confidence at δ = 0 (360 of 360 guesses right, 400 canaries)"
    )
    with pytest.raises(ValueError, match="need two canaries at least"):
        audit_scores(scores[:1], included[:1])
    with pytest.raises(ValueError, match="confidence=95: must be between 0 and 1"):
        audit_scores(scores, included, confidence=95)


STEPS, LR, CLIP = 20, 0.5, 1.0
CLAIMED = 3.0


def _private_descent(bug: str) -> Training:
    """Gradient descent of softmax regression on all images, private with ε = 3 but for ``bug``."""
    sigma = 1.34 * math.sqrt(STEPS)  # the steps are one Gaussian mechanism of σ = 1.34
    assert _epsilon_of_gaussian(1.34, 1e-5) == pytest.approx(CLAIMED, abs=0.2)

    def train(images: Tensor, labels: Tensor, seed: int) -> Scorer:
        generator = torch.Generator().manual_seed(seed)
        weight = torch.zeros(2, images.size(1))
        wanted = torch.nn.functional.one_hot(labels, 2)
        steps = 20 * STEPS if bug == "resumed steps not counted" else STEPS
        for step in range(steps):
            errors = (images @ weight.T).softmax(1) - wanted
            norms = errors.norm(dim=1) * images.norm(dim=1)  # of each image's errorsᵀ · pixels
            if bug not in ("clip after the mean", "clip per batch"):
                errors = errors * (CLIP / norms).clamp(max=1).unsqueeze(1)
            total = errors.T @ images
            if bug == "clip per batch":  # of 50 images, by its mean
                parts = zip(errors.split(50), images.split(50), strict=True)
                means = [e.T @ x / len(x) for e, x in parts]
                total = 50 * torch.stack([m * (CLIP / m.norm()).clamp(max=1) for m in means]).sum(0)
            if bug == "clip after the mean":
                total *= (CLIP * len(images) / total.norm()).clamp(max=1)
            if bug != "no noise" and (bug != "noise once a run" or step == 0):
                total += sigma * CLIP * torch.randn(total.shape, generator=generator)
            weight -= LR * STEPS / steps * total / len(images)

        def score(pixels: Tensor, classes: Tensor) -> Tensor:
            return -torch.nn.functional.cross_entropy(pixels @ weight.T, classes, reduction="none")

        return score

    return train


BUGS = (
    "no noise",
    "noise once a run",
    "clip after the mean",
    "clip per batch",
    "resumed steps not counted",
)


@pytest.mark.parametrize("bug", ["", *BUGS])
def test_a_training_is_audited_in_one_run(bug: str) -> None:
    count = 1000
    kept = torch.randn(100, count) * 0.1, torch.arange(100) % 2
    # each canary has a pixel of its own: of all images it alone moves the weights of that one
    canaries = 30 * torch.eye(count), torch.randint(2, (count,))
    found = audit_training(_private_descent(bug), kept, canaries, delta=1e-5)
    assert found.refutes(CLAIMED) == bool(bug)
    assert found.epsilon > (0.3 if not bug else CLAIMED)


RATE, NOISE, EPOCHS = 0.01, 3.0, 20


def _epochs(batches: BatchOrder | PoissonBatches) -> Iterator[Tensor]:
    for epoch in range(EPOCHS):
        batches.set_epoch(epoch)
        yield from batches


def _sampled_descent(sampling: str) -> Training:
    """Descent by batches, where image i has the gradient e_i; who attacks sees each step's update.

    Shuffled batches follow from the run's seed, so that it is known in which steps an image was.
    """

    def train(images: Tensor, labels: Tensor, seed: int) -> Scorer:
        del labels
        size, pixels = len(images), images.argmax(1)
        expected = round(RATE * size)
        batches = (
            PoissonBatches(size, expected, None)
            if sampling == "poisson"
            else BatchOrder(size, expected, seed)
        )
        noise, seen = SeededNoise(seed), torch.zeros(images.size(1), dtype=torch.float64)
        for step, indices in enumerate(_epochs(batches)):
            members = pixels[indices]
            update = NOISE * noise.normal(images.size(1), step=step)
            update[members] += 1.0
            if sampling == "poisson":
                seen += update
            else:
                seen[members] += update[members]  # the others' steps tell nothing of them
        known = torch.zeros_like(seen, dtype=torch.bool)
        known[pixels] = True
        left_out = math.sqrt(EPOCHS) * NOISE * noise.normal(images.size(1), step=1 << 30)
        seen = seen if sampling == "poisson" else torch.where(known, seen, left_out)

        def score(pixels: Tensor, classes: Tensor) -> Tensor:
            del classes
            return seen[pixels.argmax(1)]

        return score

    return train


@pytest.mark.parametrize("sampling", ["poisson", "without replacement"])
def test_batches_without_replacement_are_caught_if_accounted_as_poisson(sampling: str) -> None:
    steps = round(EPOCHS / RATE)
    claimed = Accountant().epsilon([(Mechanism(NOISE, RATE), steps)], 1e-5)
    count = 1000
    everyone = torch.eye(2 * count)
    kept, canaries = everyone[:count], everyone[count:]
    labels = torch.zeros(count, dtype=torch.int64)
    found = audit_training(
        _sampled_descent(sampling), (kept, labels), (canaries, labels), delta=1e-5
    )
    assert found.refutes(claimed) == (sampling != "poisson")


def test_wrong_labels_are_wrong_and_even() -> None:
    labels = torch.arange(10_000) % 10
    wrong = wrong_labels(labels, 10, seed=3)
    assert not bool((wrong == labels).any())
    counts = torch.bincount((wrong - labels) % 10, minlength=10)[1:]
    assert counts.min() > 1000
    assert torch.equal(wrong, wrong_labels(labels, 10, seed=3))


def test_coins_that_all_fall_alike_are_refused_before_a_training() -> None:
    images = LabelledImages(
        torch.zeros(8, 1, 4, 4, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
    )
    refused = 0
    for seed in range(20):
        included = coins(2, seed + 2)
        alike = bool(included.all()) or not bool(included.any())
        if alike:
            with pytest.raises(
                ValueError, match=rf"canaries=2: all coins of seed={seed} fall alike"
            ):
                draw(images, 3, Canaries(2, "pattern", seed))
            refused += 1
        else:
            assert draw(images, 3, Canaries(2, "pattern", seed)).included.sum() == 1
    assert 0 < refused < 20
