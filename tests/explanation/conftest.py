"""Networks, traces and pages to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from cnnexp.explanation import (
    Origin,
    Trace,
    load_untrained,
    numbered_image,
    trace,
    write_page,
)
from cnnexp.inference import TrainedNetwork
from cnnexp.runs import RunFolder
from tests.explanation.browser import Browser, find_browser
from tests.inference.conftest import train

SMALL = ("data=synthetic", "data.size=40", "data.val_size=8", "accelerator=cpu")

Explained = Callable[..., tuple[Path, Trace]]


def traced(network: TrainedNetwork, pixels: torch.Tensor, label: int | None = None) -> Trace:
    image = network.classifier.normalise(pixels.unsqueeze(0))[0]
    return trace(network.classifier.network, image, label)


@pytest.fixture
def explained(tmp_path: Path) -> Explained:
    """The page of an untrained network of these settings, and its trace."""

    def explain(*overrides: str, image: int = 0) -> tuple[Path, Trace]:
        network, images = load_untrained([*SMALL, *overrides])
        subject = numbered_image(images, image)
        found = traced(network, subject.pixels, subject.true_class)
        file = tmp_path / "explain.html"
        write_page(found, subject, network.classes, Origin("untrained", "a <command>"), file)
        return file, found

    return explain


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no chromium here (Debian: chromium)")
    with Browser(program) as opened:
        yield opened


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Of one epoch on the bundled digits."""
    return train(
        tmp_path_factory.mktemp("explained") / "run",
        *("data=digits", "model=seed_cnn", "model.channels=[4,8]", "trainer.max_epochs=1"),
        *("accelerator=cpu", "backward=fused", "logger=csv"),
    )
