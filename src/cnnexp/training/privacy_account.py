"""What a private training may spend, has spent, and how much noise that takes."""

from __future__ import annotations

import math
from functools import cached_property

from cnnexp.privacy import ADJACENCY, Accountant, Mechanism, PrivacyError, PrivacySettings
from cnnexp.runs import SpentSteps
from cnnexp.training.resume.point import ResumePoint
from cnnexp.training.trainer_settings import epoch_batches
from cnnexp.training.training_job import TrainingJob

__all__ = ["PrivacyAccount", "privacy_account"]

History = list[tuple[Mechanism, int]]


class PrivacyAccount:
    """The account of one run, which outlives its attempts.

    Args:
        settings: What is promised.
        spent: The steps so far, kept in the run folder.
        sampling_rate: q, with which an image comes into a batch.
        planned: How many steps the whole training is to have.
        trained: Whether all are made, so that nothing is to be spent any more.

    Attributes:
        mechanism: Noise and sampling of the steps to come. A run that is resumed keeps its noise, even if it
            is to be longer now.

    Raises:
        PrivacyError: Nothing of the budget is left for the steps that are to follow.
    """

    def __init__(
        self,
        settings: PrivacySettings,
        spent: SpentSteps,
        *,
        sampling_rate: float,
        planned: int,
        trained: bool = False,
    ) -> None:
        self.settings, self._spent = settings, spent
        noise = settings.noise_multiplier
        if noise is None and spent.segments:
            noise = spent.segments[-1][0]["noise_multiplier"]
        if noise is None:
            assert settings.epsilon is not None  # PrivacySettings
            if planned < 1:
                raise PrivacyError(
                    "privacy.epsilon chooses the noise by the number of steps, and this training has no end; "
                    "set trainer.max_epochs or privacy.noise_multiplier"
                )
            accountant = Accountant(settings.accountant)
            noise = accountant.noise_multiplier_for(
                settings.epsilon, settings.delta, sampling_rate, planned
            )
        self.mechanism = Mechanism(noise, sampling_rate)
        if self.left == 0 and not trained:
            raise PrivacyError(
                f"privacy.epsilon={settings.epsilon}: {self.steps} steps are spent, and ε = "
                f"{self.epsilon():.4g} at δ = {settings.delta:g}; one more would exceed the budget"
            )

    @property
    def steps(self) -> int:
        """How many steps are spent, those included that a killed attempt made after its last checkpoint."""
        return self._spent.steps

    @property
    def left(self) -> float:
        """How many more steps the budget allows; infinite without one."""
        return self._allowed - self.steps

    @cached_property
    def _allowed(self) -> float:
        if self.settings.epsilon is None:
            return math.inf
        more = Accountant(self.settings.accountant).steps_within(
            self.settings.epsilon, self.settings.delta, self.mechanism, spent=self._history()
        )
        return self.steps + more

    def _history(self) -> History:
        return [
            (Mechanism(made["noise_multiplier"], made["sampling_rate"]), steps)
            for made, steps in self._spent.segments
        ]

    def spend(self) -> None:
        """Count one step, before it is made.

        Raises:
            PrivacyError: It would exceed the budget.
        """
        if self.left < 1:
            raise PrivacyError(
                f"privacy.epsilon={self.settings.epsilon}: the budget is spent after {self.steps} steps"
            )
        noise, rate = self.mechanism.noise_multiplier, self.mechanism.sampling_rate
        self._spent.begin({"noise_multiplier": noise, "sampling_rate": rate})
        self._spent.spend()

    def __str__(self) -> str:
        made, settings = self.mechanism, self.settings
        budget = "no budget" if settings.epsilon is None else f"ε ≤ {settings.epsilon:g}"
        return (
            f"privacy {budget} at δ = {settings.delta:g} by {settings.accountant}  "
            f"noise {made.noise_multiplier:g} × clip {settings.clip:g}  "
            f"each image in a batch with {made.sampling_rate:.4g}  {self.steps} steps spent"
        )

    def sync(self) -> None:
        """Have all that is spent on the disk."""
        self._spent.sync()

    def epsilon(self, accountant: str | None = None) -> float:
        """ε of all that is spent, by the ``accountant`` of the settings or another one."""
        kind = accountant or self.settings.accountant
        return Accountant(kind).epsilon(self._history(), self.settings.delta)

    def result(self) -> dict[str, object]:
        """What result.json says of it."""
        return {
            "privacy/epsilon": self.epsilon(),
            "privacy/delta": self.settings.delta,
            "privacy/accountant": self.settings.accountant,
            "privacy/epsilon_rdp": self.epsilon("rdp"),
            "privacy/adjacency": ADJACENCY,
            "privacy/sampler": "poisson",
            "privacy/sampling_rate": self.mechanism.sampling_rate,
            "privacy/noise_multiplier": self.mechanism.noise_multiplier,
            "privacy/steps": self.steps,
        }


def privacy_account(
    job: TrainingJob, spent: SpentSteps, point: ResumePoint | None = None
) -> PrivacyAccount:
    """The account of the private ``job`` with what is ``spent`` already; its data is loaded for this.

    Args:
        job: What to train.
        spent: What attempts before have spent.
        point: Where it resumes; where all steps are made, the budget may be spent.

    Raises:
        PrivacyError: Nobody knows how long it trains, so that no noise can be chosen; its batches are
            shuffled; or nothing of the budget is left.
    """
    if job.data.sampling != "poisson":
        raise PrivacyError(
            f"sampling={job.data.sampling}: shuffled batches are less private than the ε says, which is of "
            f"batches into which each image comes by itself; use ImageDataModule(…, sampling='poisson')"
        )
    rate = job.data.sampling_rate
    planned = _planned(job)
    return PrivacyAccount(
        job.privacy,
        spent,
        sampling_rate=rate,
        planned=planned,
        trained=point is not None and 0 < planned <= point.position.step,
    )


def _planned(job: TrainingJob) -> int:
    """How many steps ``job`` is to have; 0 for one without an end."""
    epochs, steps = job.trainer.get("max_epochs"), job.trainer.get("max_steps", -1)
    by_epochs = -1 if epochs in (None, -1) else epochs * epoch_batches(job)
    limits = [limit for limit in (by_epochs, steps) if limit >= 0]
    return min(limits, default=0)
