"""How hard an image pulls, against the gradients written out, and as the page shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from cnnexp.explanation import Origin, load_untrained, numbered_image, pull_of, trace, write_page
from tests.explanation.browser import Browser
from tests.explanation.conftest import SMALL


def test_norm_rank_and_the_hardest_are_those_of_the_gradients() -> None:
    trained, images = load_untrained([*SMALL, "model=tiny"])
    subject = numbered_image(images, 1)
    pull = pull_of(trained, subject.pixels, 2, images)
    assert pull is not None
    pixels, labels = images.test.batch(torch.arange(len(images.test)))
    module, norms = trained.classifier, []
    parameters = [p.requires_grad_(True) for p in module.network.parameters()]
    batch = [(subject.pixels, torch.tensor(2)), *zip(pixels.float() / 255, labels, strict=True)]
    for image, label in batch:
        loss = F.cross_entropy(module(image[None]), label[None])
        grads = torch.autograd.grad(loss, parameters)
        norms.append(float(torch.stack([g.square().sum() for g in grads]).sum().sqrt()))
    assert pull.norm == pytest.approx(norms[0], rel=1e-4)
    assert sum(norm**2 for norm in pull.layers.values()) == pytest.approx(norms[0] ** 2, rel=1e-3)
    assert pull.beside == len(images.test)
    assert pull.larger == sum(norm > norms[0] for norm in norms[1:])
    order = sorted(range(len(images.test)), key=lambda i: -norms[1 + i])
    assert [rival.index for rival in pull.hardest] == order[:6]
    assert pull.hardest[0].norm == pytest.approx(norms[1 + order[0]], rel=1e-4)


def test_without_a_data_set_it_stands_alone() -> None:
    trained, images = load_untrained([*SMALL, "model=tiny"])
    pull = pull_of(trained, numbered_image(images, 0).pixels, 0)
    assert pull is not None
    assert (pull.beside, pull.hardest) == (0, ())
    assert not any(p.requires_grad for p in trained.classifier.network.parameters())  # as found


def test_a_network_whose_samples_mix_has_no_such_part(
    tmp_path: Path, browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    trained, images = load_untrained([*SMALL, "model=tiny"])
    for module in trained.classifier.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = module.running_var = None  # that of the batch, then
    subject = numbered_image(images, 0)
    assert pull_of(trained, subject.pixels, 0, images) is None
    assert "no gradients by image of this network: features.1 (BatchNorm2d)" in caplog.text
    page = _page(trained, subject, tmp_path, None)
    browser.open(page)
    assert browser.run("document.getElementById('pull') === null")


def test_the_page_shows_it(tmp_path: Path, browser: Browser) -> None:
    trained, images = load_untrained([*SMALL, "model=tiny"])
    subject = numbered_image(images, 0)
    pull = pull_of(trained, subject.pixels, 0, images)
    assert pull is not None
    browser.open(_page(trained, subject, tmp_path, pull))
    shown = browser.run("document.querySelector('[data-name=pull]').dataset.value")
    assert float(shown) == pytest.approx(pull.norm)
    captions = browser.run(
        "[...document.querySelectorAll('#pull figcaption')].map(c => c.textContent)"
    )
    assert captions[0].startswith(f"image {pull.hardest[0].index}, ")
    assert len(captions) == len(pull.hardest)
    bars = browser.run("document.querySelectorAll('#pull .bars li').length")
    assert bars == len(pull.layers)
    assert not browser.said


def _page(trained, subject, folder: Path, pull) -> Path:
    image = trained.classifier.normalise(subject.pixels.unsqueeze(0))[0]
    traced = trace(trained.classifier.network, image, 0)
    file = folder / "explain.html"
    write_page(traced, subject, trained.classes, Origin("untrained", "a command"), file, pull)
    return file
