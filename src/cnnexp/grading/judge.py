"""From the answers to a grade: every output and gradient judged, wrong ones named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnexp.grading.agreement import is_right
from cnnexp.grading.cases import Case
from cnnexp.grading.contract import CONTRACTS, Contract
from cnnexp.grading.evidence import describe, where_wrong
from cnnexp.grading.faults import compute
from cnnexp.grading.faults.conv import Faults
from cnnexp.grading.naming import explanations, names_of
from cnnexp.grading.process import Outcome
from cnnexp.grading.result import DERIVATION, Example, Finding
from cnnexp.grading.shown import Grade
from cnnexp.grading.variants import VARIANTS
from cnnexp.grading.words import MISTAKES

_PARTS_OF_BLOCK = {"conv": "in the convolution", "pool": "in the pool", "relu": "in the ReLU"}


def judge(op: str, work: str, cases: Sequence[Case], outcome: Outcome) -> Grade:
    """The grade of the answers in ``outcome`` to ``cases``, whose right results are known."""
    contract = CONTRACTS[op]
    names = ("y", *contract.gradients)
    if outcome.fatal is not None or not outcome.answers:
        return _failed(contract, work, names, outcome)
    if not outcome.about.get("grad_output", True):
        cases = [_with_ones(case) for case in cases]
    judge_ = _Judge(contract, cases, outcome)
    wrong = [name for name in names if judge_.wrong(name)]
    findings = judge_.findings(wrong)
    if not judge_.errors_explained():
        findings += _stopped(contract, cases, outcome)
    findings += _habits(outcome)
    parts: dict[str, bool | None] = {
        contract.symbol(n): n not in wrong and not outcome.errors for n in names
    }
    grade = Grade(op, work, "wrong" if findings else "right", parts, findings)
    grade.isolated = outcome.about.get("isolated", True)
    grade.calls = len(outcome.answers) + len(outcome.errors)
    grade.notes = _notes(contract, outcome, judge_)
    grade.example = judge_.example(wrong)
    return grade


def _with_ones(case: Case) -> Case:
    """A case of the loss with g = 1, for a backward that is not given g."""
    g = float(case.grad_output) if case.grad_output.ndim == 0 else 1.0
    case.right = {n: v if n == "y" or not g else v / g for n, v in case.right.items()}
    case.grad_output = np.ones_like(case.grad_output)
    return case


class _Judge:
    """The answers beside the right results."""

    def __init__(self, contract: Contract, cases: Sequence[Case], outcome: Outcome) -> None:
        self.contract, self.outcome, self.cases = contract, outcome, cases
        self.named: list[tuple[str, Faults]] = []
        # the worker counts the cases that it was sent
        self.answered = [
            (cases[number], answer) for number, answer in sorted(outcome.answers.items())
        ]

    def seen(self, part: str) -> list[tuple[Case, Any]]:
        """Each case in which ``part`` counts, and what the work gave for it."""
        return [
            (case, answer.y if part == "y" else answer.gradients.get(part))
            for case, answer in self.answered
            if part == "y" or case.judged is None or part in case.judged
        ]

    def wrong(self, part: str) -> bool:
        """Whether ``part`` is wrong in any case."""
        return any(not is_right(case, part, value) for case, value in self.seen(part))

    def findings(self, wrong: Sequence[str]) -> list[Finding]:
        """The mistakes, each once with all parts that show it."""
        found: dict[tuple[str, str, str], Finding] = {}
        for part in wrong:
            for finding in self._of(part):
                key = (finding.name, finding.variant, finding.meaning)
                before = found.get(key)
                if before is None:
                    found[key] = finding
                else:
                    parts, formulas = (
                        before.parts + finding.parts,
                        before.formulas + finding.formulas,
                    )
                    found[key] = Finding(
                        finding.name, parts, finding.meaning, finding.variant, finding.remedy,
                        formulas, finding.link, finding.named, before.kin,
                    )  # fmt: skip
        return list(found.values())

    def _of(self, part: str) -> list[Finding]:
        seen = self.seen(part)
        given = [(case, value) for case, value in seen if value is not None]
        faults = explanations(self.contract.op, part, given) if len(given) == len(seen) else []
        faults = [f for f in faults if self._plausible(part, f)]
        symbol, formula = self.contract.symbol(part), self.contract.formulas[part]
        link = f"{DERIVATION}#{self.contract.anchor}"
        if not faults:
            name, meaning = describe(self.contract.op, part, seen)
            return [Finding(name, (symbol,), meaning, formulas=(formula,), link=link, named=False)]
        self.named.append((part, faults[0]))
        others = dict.fromkeys(n for f in faults[1:] for n in names_of(f))
        kin = tuple(n for n in others if n not in names_of(faults[0]))
        return [
            Finding(
                mistake.name,
                (symbol,),
                mistake.meaning,
                variant,
                mistake.remedy,
                (formula,),
                link,
                kin=kin,
            )
            for mistake, variant in _mistakes(faults[0])
        ]

    def errors_explained(self) -> bool:
        """Whether the work stops only where a mistake that was named gives a result of another shape."""
        failed = [self.cases[number] for number in self.outcome.errors]
        return all(any(_misfits(p, f, case) for p, f in self.named) for case in failed)

    def _plausible(self, part: str, faults: Faults) -> bool:
        """Whether the work stops in few calls, or in many that the faults have no result for."""
        failed = [self.cases[number] for number in self.outcome.errors]
        unexplained = sum(not _misfits(part, faults, case) for case in failed)
        return unexplained <= len(self.answered) / 2

    def example(self, wrong: Sequence[str]) -> Example | None:
        """The smallest call in which a wrong part is wrong, gradients first."""
        for part in sorted(wrong, key=lambda name: name == "y"):
            shown = [
                (case, value) for case, value in self.seen(part) if not is_right(case, part, value)
            ]
            shown.sort(key=lambda pair: pair[0].kink)  # ties last: they tell of nothing but ties
            small = [pair for pair in shown if pair[0].small] or sorted(
                shown, key=lambda pair: pair[0].right[part].size
            )
            if small:
                case, value = small[0]
                g = {"g = ∂L/∂y": case.grad_output.tolist()}
                given = {name: tensor.tolist() for name, tensor in case.tensors.items()}
                found = None if value is None else value.tolist()
                symbol = self.contract.symbol(part)
                right = case.right[part].tolist()
                return Example(symbol, case.describe(), {**given, **g}, found, right)
        return None


def _misfits(part: str, faults: Faults, case: Case) -> bool:
    """Whether a program with the faults has no result, or one of a wrong shape."""
    made = compute(case, part, faults)
    return made is None or made.shape != case.right[part].shape


def _mistakes(faults: Faults) -> list[tuple[Any, str]]:
    """The mistakes of a set of faults, each once, with their variants in words."""
    found: dict[str, tuple[Any, list[str]]] = {}
    for fault in sorted(faults):
        place, colon, key = fault.partition(":")
        key = key if colon else fault
        mistake = MISTAKES[key]
        words = found.setdefault(mistake.name, (mistake, []))[1]
        words += [VARIANTS[key]] if key in VARIANTS else []
        words += [_PARTS_OF_BLOCK[place]] if colon else []
    return [(mistake, "; ".join(dict.fromkeys(words))) for mistake, words in found.values()]


def _failed(contract: Contract, work: str, names: Sequence[str], outcome: Outcome) -> Grade:
    error = outcome.fatal or next(iter(outcome.errors.values()), None)
    error = error or {"kind": "Ended", "message": "it gave no answer", "line": None, "text": ""}
    parts: dict[str, bool | None] = {contract.symbol(name): None for name in names}
    name = {"TimeLimit": "endless loop, or too slow", "MemoryError": "too much memory"}.get(
        error["kind"], "stops with an error"
    )
    if error["kind"] == "SystemExit":
        name = "ends the program"
    finding = Finding(name, tuple(parts), _said(error), named=error["kind"] == "TimeLimit")
    return Grade(contract.op, work, "failed", parts, [finding])


def _said(error: dict[str, Any]) -> str:
    """What an error says, with the student's own line."""
    where = ""
    if error.get("line"):
        inside = error.get("function") or ""
        inside = f" in {inside}" if inside and inside != "<module>" else ""
        where = f" in line {error['line']}{inside}: {error['text']}"
    message = f"{error['kind']}: {error['message']}" if error["message"] else error["kind"]
    return f"{message}{where}"


def _stopped(contract: Contract, cases: Sequence[Case], outcome: Outcome) -> list[Finding]:
    if not outcome.errors:
        return []
    tried = [cases[number] for number in sorted([*outcome.answers, *outcome.errors])]
    failed = [cases[number] for number in sorted(outcome.errors)]
    first = outcome.errors[min(outcome.errors)]
    small = next((case for case in failed if case.small), failed[0])
    where = where_wrong(failed, tried)
    said = f"{_said(first)}. It does so in {len(failed)} of {len(tried)} calls{where}"
    symbols = tuple(contract.symbol(name) for name in ("y", *contract.gradients))
    return [
        Finding(
            "stops with an error",
            symbols,
            f"{said}; the smallest is {small.describe()}.",
            link=f"{DERIVATION}#{contract.anchor}",
            named=False,
        )
    ]


def _habits(outcome: Outcome) -> list[Finding]:
    """Mistakes that are none of a formula: inputs changed, state kept, chance."""
    notes = dict.fromkeys(note for answer in outcome.answers.values() for note in answer.notes)
    changed = [n for n in notes if not n.startswith("backward changes grad_output")]
    found = []
    if changed:
        found.append(
            Finding(
                "changes its inputs in place",
                tuple(dict.fromkeys(note.split()[2] for note in changed)),
                f"{'; '.join(changed)}. Another layer may need the old values.",
                remedy="Work on a copy: x.copy(), x.clone(), or an operation that makes a new array.",
            )
        )
    repeats = outcome.about.get("repeats")
    if repeats == "state":
        found.append(
            Finding(
                "state kept between calls",
                (),
                "The same call gives another result the second time: something is added to, or kept in, a "
                "global variable or an array that is not made anew.",
                remedy="Make the arrays of the gradients inside backward, filled with zeros, at each call.",
            )
        )
    if repeats == "random":
        found.append(
            Finding(
                "depends on chance",
                (),
                "The same call with another seed gives another result.",
                remedy="Leave the random numbers out; a gradient is a function of its inputs.",
            )
        )
    return found


def _notes(contract: Contract, outcome: Outcome, judge_: _Judge) -> list[str]:
    notes = list(outcome.about.get("said", []))
    takes = outcome.about.get("takes", [])
    untried = [name for name in contract.settings if name not in takes and name != "eps"]
    if untried:
        notes.append(f"not tried, since forward takes none: {', '.join(untried)}")
    if not outcome.about.get("grad_output", True):
        notes.append("backward is not given ∂L/∂y; it was judged with ∂L/∂y = 1")
    if any(
        note.startswith("backward changes grad_output")
        for answer in outcome.answers.values()
        for note in answer.notes
    ):
        notes.append(
            "backward changes grad_output in place: harmless here, but torch forbids it, and where an "
            "output is used twice the other use gets the changed one"
        )
    if outcome.about.get("overflows"):
        notes.append(
            "not finite where a logit is 1000: subtract the largest logit of each row before exp"
        )
    if judge_.wrong("y") and not any(judge_.wrong(n) for n in contract.gradients):
        notes.append("the gradients are those of the right forward, which yours is not")
    return notes
