"""The wrong formulas: right without a fault, wrong with one, each with words, each told from the others."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from cnnexp.grading.agreement import close, is_right
from cnnexp.grading.cases import Case, cases_of
from cnnexp.grading.contract import CONTRACTS
from cnnexp.grading.faults import compute, faults_of
from cnnexp.grading.naming import explanations, names_of
from cnnexp.grading.right import solve
from cnnexp.grading.variants import VARIANTS
from cnnexp.grading.words import MISTAKES

PARTS = [(op, part) for op, contract in CONTRACTS.items() for part in ("y", *contract.gradients)]


@functools.cache
def _cases(op: str) -> list[Case]:
    return solve(cases_of(op))


@pytest.mark.parametrize(("op", "part"), PARTS)
def test_without_faults_the_formulas_are_those_of_our_ops(op: str, part: str) -> None:
    for case in _cases(op):
        made = compute(case, part, frozenset())
        assert made is not None
        assert made.shape == case.right[part].shape
        np.testing.assert_allclose(made, case.right[part], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("op", "part"), PARTS)
def test_each_fault_is_wrong_somewhere_and_called_by_its_name(op: str, part: str) -> None:
    probing = [case for case in _cases(op) if not case.small]
    judged = [case for case in probing if case.judged is None or part in case.judged]
    # a block has the faults of three layers, each tried there as well: every fourth is enough
    for faults in faults_of(op, part)[:: 4 if op == "conv_relu_pool" else 1]:
        made = [(case, compute(case, part, faults)) for case in judged]
        seen = [(case, value) for case, value in made if value is not None]
        if all(is_right(case, part, value) for case, value in seen):
            continue  # a factor of 1, an image of one, such as a mean over the batch of a ReLU's gradient
        found = explanations(op, part, seen)
        assert names_of(faults) in [names_of(other) for other in found], faults


def test_no_fault_of_an_op_is_without_effect_everywhere() -> None:
    """What the table lists for an op itself (not what any gradient may have) changes something there."""
    for op, part in PARTS:
        for faults in faults_of(op, part):
            if faults & frozenset().union(*faults_of("relu", "x")) and op != "relu":
                continue
            made = [(case, compute(case, part, faults)) for case in _cases(op)]
            assert any(v is None or not close(v, c.right[part]) for c, v in made), (
                op,
                part,
                faults,
            )


def test_every_fault_has_a_name_and_every_word_a_fault() -> None:
    used = {
        fault.partition(":")[2] or fault
        for op, part in PARTS
        for faults in faults_of(op, part)
        for fault in faults
    }
    assert used == set(MISTAKES)
    assert set(VARIANTS) <= used


def test_two_mistakes_at_once_are_both_named() -> None:
    both = frozenset({"kernel_flipped", "crop_end"})
    seen = [(case, compute(case, "x", both)) for case in _cases("conv2d")]
    (found,) = explanations("conv2d", "x", [(c, v) for c, v in seen if v is not None])
    assert found == both


def test_what_no_formula_explains_has_no_name() -> None:
    rng = np.random.default_rng(0)
    seen = [(case, rng.standard_normal(case.right["x"].shape)) for case in _cases("relu")]
    assert explanations("relu", "x", seen) == []
