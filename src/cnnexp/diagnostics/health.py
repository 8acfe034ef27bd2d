"""The verdict: what is wrong with a training, since when, how one sees it, and what to try."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cnnexp.diagnostics.history import History
from cnnexp.diagnostics.measurement import Measurement
from cnnexp.diagnostics.rules import BY_EPOCH, CAUSES, RULES, SUGGESTIONS, Sign
from cnnexp.diagnostics.thresholds import Thresholds

__all__ = ["Health", "Verdict"]


@dataclass(frozen=True)
class Verdict:
    """One trouble of a training.

    Attributes:
        trouble: Which, one of ``RULES``.
        layer: Where, by its name in the network; "" for the training as a whole.
        since: The step, or for overfitting the epoch, at which it began to show; steps are counted
            from 0, epochs from 1.
        evidence: What shows it, when the verdict turned.
        suggestion: What to try.
        until: The step or epoch at which it no longer showed; None if it never passed.
    """

    trouble: str
    layer: str
    since: int
    evidence: str
    suggestion: str
    until: int | None = None

    def __str__(self) -> str:
        unit = "epoch" if self.trouble in BY_EPOCH else "step"
        return f"{self.trouble}: {self.evidence} since {unit} {self.since}: {self.suggestion}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Health:
    """Judge a training as it goes on.

    Args:
        classes: Of the data.
        thresholds: Where the rules begin to speak.

    Attributes:
        verdicts: All that turned so far, those that have passed among them.
    """

    def __init__(self, classes: int, thresholds: Thresholds | None = None) -> None:
        self._history = History(classes, thresholds or Thresholds())
        self.verdicts: list[Verdict] = []
        self._streaks: dict[str, list[int]] = {}  # trouble → [how often in a row, since when]
        self._clear: dict[str, int] = {}  # trouble → how often in a row it did not show

    @property
    def present(self) -> list[Verdict]:
        """Those that have not passed."""
        return [verdict for verdict in self.verdicts if verdict.until is None]

    def observe(self, measurement: Measurement) -> list[Verdict]:
        """Take a measurement in; the verdicts that turned by it, there or back."""
        self._history.add(measurement)
        figures = (*measurement.losses, measurement.gradient_norm or 0.0)
        if not all(map(math.isfinite, figures)):
            return []  # which stops the training, or is left out
        patience = self._history.thresholds.patience
        rules = [name for name in RULES if name not in BY_EPOCH]
        return self._judge(rules, measurement.step, patience)

    def observe_epoch(self, epoch: int, metrics: Mapping[str, float]) -> list[Verdict]:
        """Take the figures of an epoch, counted from 1, in; as :meth:`observe`."""
        self._history.add_epoch(metrics)
        return self._judge(BY_EPOCH, epoch, self._history.thresholds.epochs)

    def observe_non_finite(self, step: int, layer: str, evidence: str) -> list[Verdict]:
        """Take in that a loss, gradient or weight of ``step`` is infinite or NaN, first in ``layer``."""
        if any(v.trouble == "exploding" for v in self.present):
            return []
        return [self._turn("exploding", Sign(layer, evidence), step)]

    def _judge(self, rules: Sequence[str], now: int, patience: int) -> list[Verdict]:
        signs = {name: RULES[name](self._history) for name in rules}
        turned = []
        for name in rules:
            sign = signs[name]
            if self._follows_from_another(name, signs):
                self._streaks.pop(name, None)
            elif sign is not None:
                turned += self._shows(name, sign, now, patience)
            else:
                turned += self._passes(name, now, patience)
        return turned

    def _follows_from_another(self, name: str, signs: Mapping[str, Sign | None]) -> bool:
        """Whether a trouble that explains ``name`` shows: it neither turns nor passes meanwhile."""
        causes = () if name in CAUSES or name in BY_EPOCH else CAUSES
        if name == "stuck":
            causes = (*CAUSES, "oscillating", "lr too high", "lr too low")
        there = {verdict.trouble for verdict in self.present}
        return any(signs.get(cause) is not None or cause in there for cause in causes)

    def _shows(self, name: str, sign: Sign, now: int, patience: int) -> list[Verdict]:
        self._clear.pop(name, None)
        streak = self._streaks.setdefault(name, [0, now])
        streak[0] += 1
        needed = 1 if name == "exploding" else patience  # the next step may be its last
        if streak[0] < needed or any(v.trouble == name for v in self.present):
            return []
        return [self._turn(name, sign, streak[1])]

    def _passes(self, name: str, now: int, patience: int) -> list[Verdict]:
        self._streaks.pop(name, None)
        current = [i for i, v in enumerate(self.verdicts) if v.trouble == name and v.until is None]
        if not current:
            return []
        self._clear[name] = self._clear.get(name, 0) + 1
        if self._clear[name] < patience:
            return []
        self._clear.pop(name)
        self.verdicts[current[0]] = replace(self.verdicts[current[0]], until=now)
        return [self.verdicts[current[0]]]

    def _turn(self, name: str, sign: Sign, since: int) -> Verdict:
        self.verdicts.append(Verdict(name, sign.layer, since, sign.evidence, SUGGESTIONS[name]))
        return self.verdicts[-1]

    def state_dict(self) -> dict[str, Any]:
        """To go on from, in plain types."""
        return {
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
            "streaks": {name: list(streak) for name, streak in self._streaks.items()},
            "clear": dict(self._clear),
            "history": self._history.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`state_dict`."""
        self.verdicts = [Verdict(**verdict) for verdict in state["verdicts"]]
        self._streaks = {name: list(streak) for name, streak in state["streaks"].items()}
        self._clear = dict(state["clear"])
        self._history.load(state["history"])
