"""Try a suggestion: train a few steps with it, and compare the loss with that of the run."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnnexp.config.compose import Composer, plain_config
from cnnexp.diagnosis.of_run import RunDiagnosis
from cnnexp.diagnostics import Evidence
from cnnexp.diagnostics.outcome import guess_of, near_guess
from cnnexp.environment import variable
from cnnexp.execution.job import Job
from cnnexp.execution.processes import how_it_ended, start_anew
from cnnexp.execution.slots import cores
from cnnexp.runs import RunFolder


@dataclass(frozen=True)
class Tryout:
    """The result of trying a suggestion.

    Attributes:
        overrides: What was changed, as arguments of ``cnnexp.train``.
        steps: How many steps were trained.
        before, after: The run's mean loss around that step, and that of the tryout; None if it failed.
        accuracy: The tryout's share of validation images that it classifies correctly; None if unknown.
        learned: Whether the tryout is better than guessing where the run was not, or its loss is a tenth
            lower.
        error: Why it failed; "" if it did not.
    """

    overrides: tuple[str, ...]
    steps: int
    before: float | None
    after: float | None
    accuracy: float | None
    learned: bool
    error: str = ""

    def __str__(self) -> str:
        what = f"{' '.join(self.overrides)}, {self.steps} steps"
        if self.error:
            return f"tried {what}: {self.error}"
        loss = f"loss {self.after:.3g}" if self.after is not None else "no loss"
        before = f", {self.before:.3g} before" if self.before is not None else ""
        accuracy = "" if self.accuracy is None else f", val/acc {self.accuracy:.1%}"
        return (
            f"tried {what}: {loss}{before}{accuracy}: {'it helps' if self.learned else 'no help'}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The attributes for JSON."""
        return {**asdict(self), "text": str(self)}


def try_suggestion(found: RunDiagnosis, steps: int, allowed: Sequence[str] = ()) -> Tryout | None:
    """Train ``steps`` steps with the first suggestion that can be said on the command line.

    The training runs in a process of its own, with the run's config otherwise, in a folder that is removed
    afterwards. Its test images are not read.

    Args:
        found: The diagnosis of the run.
        steps: How many, ≥ 1.
        allowed: Prefixes of ``_target_`` allowed beyond cnnexp's own list.

    Returns:
        None if no finding has such a suggestion.

    Raises:
        ConfigError: The run's config cannot be changed so.
    """
    overrides = next((one.overrides for one in found.diagnosis.findings if one.overrides), ())
    if not overrides:
        return None
    config = changed(found.folder.read_config(), overrides)
    config = _short(config, steps)
    with tempfile.TemporaryDirectory(prefix="cnnexp-try-") as place:
        folder = RunFolder(Path(place))
        process = start_anew(Job(config, place, tuple(allowed)), {}, threads=_threads())
        try:
            process.close()
        except BaseException:  # Ctrl-C: nobody is to write into a folder that goes
            process.send(signal.SIGKILL)
            process.close()
            raise
        code = process.exit_code()
        return _result(found, folder, overrides, steps, code)


def _threads() -> int:
    """As many processor threads as this process would take."""
    given = variable("OMP_NUM_THREADS", "")
    return int(given) if given and given.isdecimal() and int(given) else cores()


def changed(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A resolved ``config`` with ``overrides`` applied: keys are set, a chosen group replaces the part.

    Raises:
        ConfigError: A choice is unknown.
    """
    made = deepcopy(dict(config))
    plain = plain_config(Composer("train").compose([]))
    for override in overrides:
        key, _, value = override.partition("=")
        if "." not in key:
            chosen = plain_config(Composer("train").compose([override]))
            _merge_changes(made, plain, chosen)
        else:
            *parts, last = key.split(".")
            place = made
            for part in parts:
                place = place.setdefault(part, {})
            place[last] = _value(value)
    return made


def _merge_changes(made: dict[str, Any], before: Any, after: Mapping[str, Any]) -> None:
    """Set in ``made`` what ``after`` has otherwise than ``before``."""
    for key, value in after.items():
        old = before.get(key) if isinstance(before, Mapping) else None
        if isinstance(value, Mapping) and isinstance(made.get(key), dict):
            _merge_changes(made[key], old, value)
        elif value != old:
            made[key] = deepcopy(value)


def _value(text: str) -> Any:
    import yaml

    try:
        return float(text) if not text.lstrip("-").isdecimal() else int(text)
    except ValueError:
        return yaml.safe_load(text)


def _short(config: dict[str, Any], steps: int) -> dict[str, Any]:
    trainer = {**config.get("trainer", {}), "max_steps": steps, "max_epochs": 10_000}
    # validated once, after the last step
    trainer |= {"check_val_every_n_epoch": None, "val_check_interval": steps}
    return {**config, "trainer": trainer, "test": False, "logger": {}, "sweep": {"name": "try"}}


def _result(
    found: RunDiagnosis,
    folder: RunFolder,
    overrides: tuple[str, ...],
    steps: int,
    code: int | None,
) -> Tryout:
    status, content = folder.read_status(), folder.read_evidence()
    if status.get("state") != "done" or not content:
        reason = status.get("error") or how_it_ended(code if code is not None else 1)
        return Tryout(overrides, steps, None, None, None, learned=False, error=f"failed: {reason}")
    tried = Evidence.of(content)
    share = min(1.0, steps / max(found.evidence.steps, 1))
    before = found.evidence.curve.mean(max(0.0, 0.8 * share), share)
    after = tried.curve.mean(0.8, 1.0)
    accuracy = folder.read_result().get("val/acc")
    guess = guess_of(tried)
    known = accuracy is not None and not near_guess(accuracy, guess, _images(tried))
    cured = found.diagnosis.outcome.bad and known
    return Tryout(
        overrides,
        tried.steps,
        None if before != before else before,
        after,
        accuracy,
        learned=cured or after < 0.9 * before,
    )


def _images(evidence: Evidence) -> float:
    return float(evidence.facts.get("val_images", 1000))
