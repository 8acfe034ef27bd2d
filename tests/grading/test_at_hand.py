"""Functions and classes at hand, as in a notebook, and the pytest fixture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnnexp.commandline import Misuse
from cnnexp.grading import Limits, grade


def _forward(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def test_functions_are_graded() -> None:
    assert grade("relu", forward=_forward, backward=lambda g, x: g * (x > 0))
    wrong = grade("relu", forward=_forward, backward=lambda g, x: g)
    assert wrong.verdict == "wrong"
    text = repr(wrong)
    assert "ReLU's mask missing" in text
    assert "docs/derivation.md#relu-the-linear-layer-and-the-loss" in text
    html = wrong._repr_html_()
    assert "<td class=bad>" in html
    assert "ReLU&#x27;s mask missing" in html


def test_an_endless_function_is_stopped() -> None:
    def backward(g: np.ndarray, x: np.ndarray) -> np.ndarray:
        while True:
            pass

    made = grade("relu", forward=_forward, backward=backward, limits=Limits(seconds=1.0))
    assert made.findings[0].name == "endless loop, or too slow"


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x @ w.T + b

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, w = ctx.saved_tensors
        return g @ w, g.T @ x / len(x), g.sum(0)


def test_a_function_and_a_module_are_graded() -> None:
    made = grade("linear", _Square)
    assert [(f.name, f.parts) for f in made.findings] == [("mean for sum", ("∂L/∂w",))]
    assert grade("linear", nn.Linear)
    assert grade("batch_norm", nn.BatchNorm2d)


def test_misuse_is_said() -> None:
    with pytest.raises(Misuse, match=r"conv2: no op that can be graded; .*Did you mean 'conv2d'\?"):
        grade("conv2", forward=_forward, backward=_forward)
    with pytest.raises(Misuse, match="give forward= and backward="):
        grade("relu", forward=_forward)
    with pytest.raises(Misuse, match="there is no such file"):
        grade("relu", "nowhere.py")


def test_the_fixture_fails_a_test_with_the_grade(tmp_path: Path) -> None:
    students = Path(__file__).parent / "students"
    (tmp_path / "test_work.py").write_text(
        f"def test_right(grade): grade('relu', {str(students / 'right' / 'relu__mask.py')!r})\n"
        f"def test_wrong(grade): grade('relu', {str(students / 'wrong' / 'relu__output_sign.py')!r})\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "cnnexp.grading.fixture"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "ReLU's mask missing" in done.stdout
