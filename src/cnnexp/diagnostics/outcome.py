"""Did it learn? One answer, relative to guessing and to the loss's own movement."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from cnnexp.diagnostics.evidence import Evidence

_GAIN = 0.1  # share of the way from guessing to perfect, below which nothing was learned
_MOVED = 0.05  # share by which a high loss must have fallen
_HIGH = 0.7  # share of ln(classes) above which a loss is high
_FAR = 0.7  # share of the way from guessing to perfect that a training is expected to come
_KNOWN = 0.95  # share of that way from which a training knows its own images
_STILL = 0.03  # late fall of the loss below which it stands
_DEVIATIONS = 3.0  # above guessing, of the binomial distribution
_FEWEST = 30  # steps before which nothing is said


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Attributes:
        kind: ``too early`` to tell; ``failed`` in infinite numbers or NaN; ``guessing``; ``unmoved``, where
            the loss hardly fell; ``lost``, where it had learned and guesses again; ``by heart``, where it
            knows training images and guesses others; ``stopped`` far from perfect with a loss that
            stands; ``slow``, far from perfect with a loss that falls; or ``learned``.
        text: The sentence that says so, with its numbers.
        gain: The accuracy on its scale from guessing (0) to perfect (1); None if unknown.
    """

    kind: str
    text: str
    gain: float | None = None

    @property
    def bad(self) -> bool:
        """Whether it did not learn at all."""
        return self.kind in ("failed", "guessing", "unmoved", "lost", "by heart")

    @property
    def doubtful(self) -> bool:
        """Whether it learned less than it might have, if there is a reason to think so."""
        return self.kind in ("stopped", "slow")

    def as_dict(self) -> dict[str, Any]:
        """The attributes for JSON."""
        return asdict(self)


def outcome_of(evidence: Evidence) -> Outcome:
    """The outcome so far.

    An accuracy is near guessing if it is less than a tenth of the way from there to 1 above it, or within
    three standard deviations (binomial). Guessing means 1/classes, or the largest class's share.
    """
    if evidence.non_finite:
        text = f"the training broke off: {evidence.non_finite['evidence']}"
        return Outcome("failed", text)
    if evidence.steps < _FEWEST:
        return Outcome("too early", f"{evidence.steps} steps are too few to tell")
    epoch = evidence.epochs[-1] if evidence.epochs else {}
    if evidence.classes > 1 and ("val/acc" in epoch or "train/acc" in epoch):
        return _by_accuracy(evidence, epoch)
    loss, start = evidence.curve.last, _start(evidence)
    if _unmoved(evidence):
        return Outcome("unmoved", f"the loss is {loss:.3g} after {evidence.steps} steps{start}")
    return Outcome("learned", f"the loss is {loss:.3g} after {evidence.steps} steps{start}")


def guess_of(evidence: Evidence) -> float:
    """The accuracy of who answers at random, or always with the largest class."""
    return max(1 / max(evidence.classes, 1), float(evidence.facts.get("majority", 0.0)))


def gain_of(accuracy: float, guess: float) -> float:
    """An accuracy on the scale from guessing (0) to perfect (1)."""
    return (accuracy - guess) / (1 - guess) if guess < 1 else 0.0


def near_guess(accuracy: float, guess: float, images: float) -> bool:
    """Whether an accuracy over so many images is as good as guessing."""
    spread = _DEVIATIONS * math.sqrt(guess * (1 - guess) / max(images, 1))
    return gain_of(accuracy, guess) < _GAIN or accuracy <= guess + spread


def _by_accuracy(evidence: Evidence, epoch: dict[str, float]) -> Outcome:
    part = "val" if "val/acc" in epoch else "train"
    images = evidence.facts.get(f"{part}_images", 1000)
    accuracy, guess = epoch[f"{part}/acc"], guess_of(evidence)
    gain = gain_of(accuracy, guess)
    words = "validation" if part == "val" else "training"
    text = (
        f"it classifies {accuracy:.1%} of the {words} images after {evidence.steps} steps; guessing would "
        f"give {guess:.1%}"
    )
    if near_guess(accuracy, guess, images):
        return _guesses(evidence, epoch, text, gain)
    if _unmoved(evidence) and gain < _FAR:
        return Outcome("unmoved", f"{text}, and the loss is {_moved(evidence)}", gain)
    knows_its_own = gain_of(epoch.get("train/acc", 0.0), guess) > _KNOWN
    if gain < _FAR and not knows_its_own:
        stands = evidence.curve.late_fall < _STILL
        text = (
            f"{text}. The loss is {_moved(evidence)}, and {'stands' if stands else 'still falls'}"
        )
        return Outcome("stopped" if stands else "slow", text, gain)
    return Outcome("learned", text, gain)


def _guesses(evidence: Evidence, epoch: dict[str, float], text: str, gain: float) -> Outcome:
    guess = guess_of(evidence)
    answers = evidence.predictions
    if answers.get("commonest_share", 0.0) > 0.9:
        text += f". It answers class {answers['commonest']} for {answers['commonest_share']:.0%} of them"
    trained = epoch.get("train/acc", 0.0)
    if "val/acc" in epoch and gain_of(trained, guess) > 0.4:
        return Outcome(
            "by heart", f"{text}. Of the training images it classifies {trained:.1%}", gain
        )
    before = [one["val/acc"] for one in evidence.epochs if "val/acc" in one]
    best = max(before, default=0.0)
    if gain_of(best, guess) > 0.3:
        number = next(i for i, value in enumerate(before, start=1) if value == best)
        return Outcome("lost", f"{text}. After epoch {number} it was {best:.1%}", gain)
    return Outcome("guessing", text, gain)


def _unmoved(evidence: Evidence) -> bool:
    """Whether the loss is high and hardly below where it began."""
    curve, chance = evidence.curve, evidence.chance
    start = min(curve.first, chance)
    return curve.last > _HIGH * chance and curve.last > (1 - _MOVED) * start


def _moved(evidence: Evidence) -> str:
    return f"{evidence.curve.last:.3g} after {evidence.curve.first:.3g} at the start"


def _start(evidence: Evidence) -> str:
    return f", {evidence.curve.first:.3g} at the start; {evidence.said_of_chance}"
