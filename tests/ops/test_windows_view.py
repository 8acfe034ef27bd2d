"""The view of all windows is what ``functional.unfold`` copies."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cnnexp.geometry.windows import WindowGeometry

CASES = [
    # size, kernel, stride, padding, dilation
    ((9, 12), (3, 2), (1, 1), (0, 0), (1, 1)),
    ((9, 12), (3, 3), (2, 3), (1, 1), (1, 1)),
    ((11, 8), (2, 3), (1, 2), (2, 0), (3, 2)),
    ((5, 5), (5, 5), (1, 1), (0, 0), (1, 1)),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_has_the_columns_of_unfold_and_no_memory_of_its_own(
    case: tuple[tuple[int, int], ...], layout: torch.memory_format
) -> None:
    size, kernel, stride, padding, dilation = case
    geometry = WindowGeometry(size, kernel, stride, padding, dilation, ceil_mode=False)
    image = torch.randn(2, 3, *size).to(memory_format=layout)
    padded = geometry.pad(image)
    windows = geometry.as_view(padded)
    assert windows.shape == (2, 3, *geometry.output_size, *kernel)
    assert windows.untyped_storage().data_ptr() == padded.untyped_storage().data_ptr()
    columns = windows.permute(0, 1, 4, 5, 2, 3).reshape(2, 3 * kernel[0] * kernel[1], -1)
    assert torch.equal(columns, F.unfold(image, kernel, dilation, padding, stride))


def test_in_ceil_mode_no_window_is_more_than_the_geometry_counts() -> None:
    geometry = WindowGeometry((7, 8), (3, 3), (2, 2), (1, 0), (1, 1), ceil_mode=True)
    windows = geometry.as_view(geometry.pad(torch.randn(1, 2, 7, 8)))
    assert windows.shape == (1, 2, *geometry.output_size, 3, 3)
