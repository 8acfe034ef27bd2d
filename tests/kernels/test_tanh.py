"""The tanh of the CPU kernels, number by number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cnnexp import ops


def _tanh(values: torch.Tensor) -> torch.Tensor:
    """By the kernel: a convolution by a kernel of one 1, which leaves each number as it is."""
    one = torch.ones(1, 1, 1, 1, dtype=values.dtype)
    return ops.conv_tanh_pool(values.view(1, 1, 1, -1), one).flatten()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_error_is_at_most_two_units_in_the_last_place(dtype: torch.dtype) -> None:
    small = torch.logspace(-37, 1.3, 40_001, dtype=torch.float64)
    values = torch.cat([torch.linspace(-12, 12, 200_001).double(), small, -small]).to(dtype)
    exact = np.tanh(values.numpy().astype(np.longdouble))
    units = np.spacing(np.abs(exact).astype(values.numpy().dtype))
    assert np.max(np.abs(_tanh(values).numpy() - exact) / units) <= 2


def test_in_bfloat16_it_is_the_nearest_or_as_near() -> None:
    values = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    values = values[
        values.isfinite() & (values.abs() >= 1.2e-38)
    ]  # the instruction takes less for 0
    exact = np.tanh(values.double().numpy())
    nearest = torch.from_numpy(exact).bfloat16().double().numpy()
    error, least = np.abs(_tanh(values).double().numpy() - exact), np.abs(nearest - exact)
    assert np.max((error - least) / np.abs(exact)) <= 4e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_infinities_saturate_and_nan_stays(dtype: torch.dtype) -> None:
    values = torch.tensor([torch.inf, -torch.inf, 1e4, -1e4, 0.0], dtype=dtype)
    assert _tanh(values).tolist() == [1.0, -1.0, 1.0, -1.0, 0.0]
    # of one number alone: 0·∞ and NaN would reach no other sum of a convolution by 1×1
    assert _tanh(torch.tensor([torch.nan], dtype=dtype)).isnan().all()
