"""The verdict: what is wrong with a training, since when, on what evidence, and what to try."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cnnexp.diagnostics.history import History
from cnnexp.diagnostics.measurement import Measurement
from cnnexp.diagnostics.rules import BY_EPOCH, BY_WINDOW, CAUSES, RULES, SUGGESTIONS, Sign
from cnnexp.diagnostics.thresholds import Thresholds


@dataclass(frozen=True)
class Verdict:
    """One trouble of a training.

    Attributes:
        trouble: The name of the trouble, one of ``RULES``.
        layer: The name of the layer in the network; "" for the training as a whole.
        since: The step, or for overfitting the epoch, at which it began to show, counted from 1.
        evidence: The numbers that showed it when the verdict was reached.
        suggestion: What to try.
        until: The step or epoch at which it no longer showed; None if it still shows.
    """

    trouble: str
    layer: str
    since: int
    evidence: str
    suggestion: str
    until: int | None = None

    def __str__(self) -> str:
        return f"{self.trouble}: {self.evidence} since {self._at(self.since)}: {self.suggestion}"

    @property
    def passed(self) -> str:
        """A phrase that says when the trouble passed; "" if it has not passed."""
        return "" if self.until is None else f"no longer from {self._at(self.until)} on"

    def _at(self, number: int) -> str:
        return f"{'epoch' if self.trouble in BY_EPOCH else 'step'} {number}"

    def as_dict(self) -> dict[str, Any]:
        """The attributes as a dictionary for JSON."""
        return asdict(self)


class Health:
    """The judge of a training in progress.

    Args:
        classes: How many classes the data has.
        thresholds: The values at which the rules report a trouble.
        explain: Gives what to try instead of a trouble's own suggestion, where a stronger cause explains
            it; "" where none does.
        chance: Gives the loss of a network that finds all classes equally likely, where it may be another
            than ln(classes).

    Attributes:
        verdicts: All verdicts reached so far, including those that have passed.
        steps: How many steps the training had taken at the last measurement.
    """

    def __init__(
        self,
        classes: int,
        thresholds: Thresholds | None = None,
        explain: Callable[[], str] = str,
        chance: Callable[[], float] | None = None,
    ) -> None:
        self._explain = explain
        self._history = History(classes, thresholds or Thresholds(), chance=chance)
        self.verdicts: list[Verdict] = []
        self._streaks: dict[str, list[int]] = {}  # trouble → [how often in a row, since when]
        self._clear: dict[str, int] = {}  # trouble → how often in a row it did not show
        self._windows = 0  # how many windows of losses have been judged
        self._given_up: list[Verdict] = []
        self.steps = 0

    @property
    def present(self) -> list[Verdict]:
        """The verdicts that have not passed."""
        return [verdict for verdict in self.verdicts if verdict.until is None]

    def observe(self, measurement: Measurement) -> list[Verdict]:
        """Take a measurement into account; return the verdicts that it brought about or ended."""
        self._history.add(measurement)
        self.steps = measurement.step + 1
        if not math.isfinite(measurement.gradient_norm or 0.0):
            return []  # such a step stops the training, or is skipped
        rules = [name for name in RULES if name not in (*BY_EPOCH, *BY_WINDOW)]
        if len(self._history.windows) > self._windows:
            self._windows = len(self._history.windows)
            rules += BY_WINDOW
        return self._judge(rules, self.steps)

    def observe_epoch(self, epoch: int, metrics: Mapping[str, float]) -> list[Verdict]:
        """Take the metrics of an epoch, counted from 1, into account; return verdicts as
        :meth:`observe` does.
        """
        self._history.add_epoch(metrics)
        return self._judge(BY_EPOCH, epoch)

    def observe_non_finite(self, step: int, layer: str, evidence: str) -> list[Verdict]:
        """Record that a loss, gradient or weight of ``step`` is infinite or NaN, first in ``layer``.

        Returns:
            The new verdict "exploding"; nothing if the training has it already.
        """
        if any(v.trouble == "exploding" for v in self.present):
            return []
        return [self._turn("exploding", Sign(layer, evidence), step)]

    def given_up(self, step: int) -> list[Verdict]:
        """The verdicts "exploding" as passed at ``step``: another attempt takes this one's place."""
        return [replace(v, until=step) for v in self.present if v.trouble == "exploding"]

    def keep(self, verdicts: Sequence[Verdict]) -> None:
        """Keep the verdicts for which earlier attempts were given up, whatever state is loaded later."""
        self._given_up = list(dict.fromkeys(verdicts))
        self._recall()

    def _recall(self) -> None:
        forgotten = [verdict for verdict in self._given_up if verdict not in self.verdicts]
        self.verdicts[:0] = forgotten

    def _judge(self, rules: Sequence[str], now: int) -> list[Verdict]:
        signs = {name: RULES[name](self._history) for name in rules}
        turned = []
        for name in rules:
            sign, patience = signs[name], self._patience(name)
            if _follows_from_another(name, signs, self.present):
                self._streaks.pop(name, None)
            elif sign is not None:
                turned += self._shows(name, sign, now, patience)
            else:
                turned += self._passes(name, now, patience)
        return turned

    def _patience(self, name: str) -> int:
        if name in BY_WINDOW:
            return 2
        limits = self._history.thresholds
        return limits.epochs if name in BY_EPOCH else limits.patience

    def _shows(self, name: str, sign: Sign, now: int, patience: int) -> list[Verdict]:
        self._clear.pop(name, None)
        streak = self._streaks.setdefault(name, [0, now])
        streak[0] += 1
        needed = 1 if name == "exploding" else patience  # the training's next step may be its last
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
        advice = SUGGESTIONS[name] if name in BY_EPOCH else self._explain() or SUGGESTIONS[name]
        self.verdicts.append(Verdict(name, sign.layer, since, sign.evidence, advice))
        return self.verdicts[-1]

    def state_dict(self) -> dict[str, Any]:
        """The state to resume from, in plain types."""
        return {
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
            "streaks": {name: list(streak) for name, streak in self._streaks.items()},
            "clear": dict(self._clear),
            "windows": self._windows,
            "steps": self.steps,
            "history": self._history.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state that :meth:`state_dict` returned."""
        self.verdicts = [Verdict(**verdict) for verdict in state["verdicts"]]
        self._recall()
        self._streaks = {name: list(streak) for name, streak in state["streaks"].items()}
        self._clear = dict(state["clear"])
        self._history.load(state["history"])
        self._windows = min(state["windows"], len(self._history.windows))
        self.steps = state["steps"]


def _follows_from_another(
    name: str, signs: Mapping[str, Sign | None], present: Sequence[Verdict]
) -> bool:
    """Whether a trouble that explains ``name`` shows; meanwhile ``name`` neither begins nor passes."""
    causes = () if name in CAUSES or name in BY_EPOCH else CAUSES
    if name == "stuck":
        causes = (*CAUSES, "oscillating", "lr too high", "lr too low")
    there = {verdict.trouble for verdict in present}
    return any(signs.get(cause) is not None or cause in there for cause in causes)
