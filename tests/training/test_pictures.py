"""What is drawn into TensorBoard shows what the network is and does, pixel by pixel."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torchvision.utils import make_grid

from cnnexp.data import ImageDataModule, load_digits
from cnnexp.diagnostics import DiagnosticsSettings
from cnnexp.diagnostics.figures import gradient_flow_figure
from cnnexp.models import SeedCNN
from cnnexp.runs import RunFolder
from cnnexp.training import Classifier, TrainingJob, read_checkpoint, run_training
from cnnexp.training.assemble import make_classifier
from cnnexp.training.callbacks.after_test import confusion_figure, worst_figure
from cnnexp.training.callbacks.hardest import hardest_figure
from tests.training.resumable import new_folder, small_job


def _classifier(job: TrainingJob, checkpoint: Path) -> Classifier:
    classifier = make_classifier(job, job.data.images)
    classifier.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
    return classifier.eval().requires_grad_(False)


class Drawn:
    """A finished run, its network by the best and by the last epoch, and what TensorBoard was given."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.data = ImageDataModule(load_digits, batch_size=32, val_size=44, train_size=170)
        job = small_job(
            data=self.data,
            network=lambda images: SeedCNN(channels=[4, 8]),
            diagnostics=DiagnosticsSettings("full", 2, sharpness_iterations=2),
            callbacks=list,
        )
        run_training(job, folder)
        self.best, self.last = (
            _classifier(job, file) for file in (folder.best_checkpoint, folder.last_checkpoint)
        )
        size = {"images": 0, "tensors": 0}
        self.events = EventAccumulator(str(folder.tensorboard), size).Reload()

    def picture(self, tag: str) -> np.ndarray[Any, Any]:
        """The last one of ``tag``, (H, W, 3) of bytes."""
        encoded = self.events.Images(tag)[-1].encoded_image_string
        return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))

    def test_images(self) -> tuple[Tensor, Tensor]:
        test = self.data.images.test
        pixels, labels = test.batch(torch.arange(len(test)))
        return pixels.float() / 255, labels


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return Drawn(new_folder(tmp_path_factory.mktemp("pictures") / "run"))


def _rendered(figure: Figure) -> np.ndarray[Any, Any]:
    target = io.BytesIO()
    figure.savefig(target, format="raw")
    width, height = figure.canvas.get_width_height()
    pixels = np.frombuffer(target.getvalue(), np.uint8).reshape(height, width, 4)
    return pixels[..., :3]


def _cells(figure: Figure) -> Any:
    """The values of a heat map."""
    (mesh,) = figure.axes[0].collections
    return mesh.get_array()


def _bytes(grid: Tensor, scale: int) -> np.ndarray[Any, Any]:
    enlarged = F.interpolate(grid.unsqueeze(0), scale_factor=scale, mode="nearest")[0]
    return (enlarged * 255).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def test_the_worst_images_are_those_of_the_greatest_loss(drawn: Drawn) -> None:
    images, labels = drawn.test_images()
    logits = drawn.best(images)
    losses = F.cross_entropy(logits, labels, reduction="none")
    missed = [i for i in range(len(labels)) if logits[i].argmax() != labels[i]]
    worst = sorted(missed, key=lambda i: -float(losses[i]))[:36]
    assert len(worst) >= 10
    pairs = torch.stack((labels, logits.argmax(1)), 1)
    classes = drawn.data.images.classes
    figure = worst_figure(images[worst], pairs[worst], losses[worst], classes)
    shown = drawn.picture("test/worst")
    np.testing.assert_array_equal(shown, _rendered(figure))
    (axes,) = figure.axes
    true, predicted = pairs[worst[0]].tolist()
    assert axes.texts[0].get_text() == (
        f"{classes[true]} taken for {classes[predicted]}\nloss {losses[worst[0]]:.2f}"
    )
    np.testing.assert_array_equal(axes.images[0].get_array(), images[worst[0], 0])
    assert len(axes.images) == len(axes.texts) == len(worst)


def test_captions_of_long_names_are_broken() -> None:
    pair, loss = torch.tensor([[0, 1]]), torch.tensor([2.345])
    figure = worst_figure(torch.rand(1, 3, 8, 8), pair, loss, ["T-shirt/top", "Ankle boot"])
    (axes,) = figure.axes
    assert axes.texts[0].get_text() == "T-shirt/top taken for\nAnkle boot, loss 2.35"
    assert axes.images[0].get_array().shape == (8, 8, 3)  # pyright: ignore


def test_where_none_is_misclassified_the_picture_says_so() -> None:
    none = torch.empty(0)
    figure = worst_figure(none, torch.empty(0, 2, dtype=torch.int64), none, ["a", "b"])
    assert figure.get_suptitle() == "none misclassified"
    assert not any(axes.images for axes in figure.axes)


def test_the_confusion_matrix_counts_the_test_images(drawn: Drawn) -> None:
    images, labels = drawn.test_images()
    counts = torch.zeros(10, 10, dtype=torch.int64)
    for true, predicted in zip(labels.tolist(), drawn.best(images).argmax(1).tolist(), strict=True):
        counts[true, predicted] += 1
    figure = confusion_figure(counts, drawn.data.images.classes)
    np.testing.assert_array_equal(drawn.picture("test/confusion_matrix"), _rendered(figure))
    written = {text.get_text() for text in figure.axes[0].texts}
    assert written == {str(n) for n in counts.flatten().tolist() if n}


def test_filters_are_the_kernels_and_features_what_the_layer_gives(drawn: Drawn) -> None:
    first = dict(drawn.last.network.named_modules())["features.0"]
    assert isinstance(first, nn.Conv2d)
    kernels = make_grid(first.weight, nrow=8, normalize=True, scale_each=True, padding=1)
    np.testing.assert_array_equal(drawn.picture("filters/features.0"), _bytes(kernels, 12))
    pixels, _ = drawn.data.val.batch(torch.tensor([0]))
    maps = first(drawn.last.normalise(pixels.float() / 255))[0].unsqueeze(1)
    grid = make_grid(maps, nrow=8, normalize=True, scale_each=True, padding=1)
    difference = drawn.picture("features/features.0").astype(int) - _bytes(grid, 2).astype(int)
    assert abs(difference).max() <= 1  # a batch of one or not, the sums round differently


def test_the_hardest_images_are_those_of_the_largest_gradients(drawn: Drawn) -> None:
    train, module = drawn.data.train, drawn.last
    spread = torch.linspace(0, len(train) - 1, min(512, len(train))).round().long()
    pixels, labels = train.batch(spread)
    images, parameters = pixels.float() / 255, [*module.network.parameters()]
    norms = []
    for image, label in zip(images, labels, strict=True):
        for parameter in parameters:
            parameter.requires_grad_(True)
        loss = F.cross_entropy(module(image[None]), label[None])
        grads = torch.autograd.grad(loss, parameters)
        norms.append(float(torch.stack([g.square().sum() for g in grads]).sum().sqrt()))
        module.requires_grad_(False)
    order = sorted(range(len(norms)), key=lambda i: -norms[i])[:24]
    values = torch.tensor(norms)[order]
    predicted = module(images[order]).argmax(1)
    classes = drawn.data.images.classes
    figure = hardest_figure(images[order], labels[order], predicted, values, classes)
    shown, mine = drawn.picture("grad/hardest"), _rendered(figure)
    assert shown.shape == mine.shape
    # captions of three digits may round differently
    assert (shown != mine).any(-1).mean() < 0.01
    first = figure.axes[0].texts[0].get_text()
    assert first.endswith(f"\n‖g‖ {values[0]:.3g}")


def test_the_gradient_flow_is_of_the_measurements(drawn: Drawn) -> None:
    names = {"conv1 (features.0)": "features.0", "conv2 (features.3)": "features.3"}
    names |= {"linear1 (classifier)": "classifier"}
    rows = drawn.folder.read_metrics()
    flow = {
        label: [row["value"] for row in rows if row["name"] == f"grad/{name}/activation"]
        for label, name in names.items()
    }
    steps = [row["step"] for row in rows if row["name"] == "grad/classifier/activation"]
    assert len(steps) == 9
    figure = gradient_flow_figure(steps, flow)
    np.testing.assert_array_equal(drawn.picture("gradient_flow"), _rendered(figure))
    expected = [[np.log10(value) for value in values] for values in flow.values()]
    np.testing.assert_allclose(_cells(figure), expected)


def test_a_gradient_that_is_nothing_leaves_its_cell_grey() -> None:
    figure = gradient_flow_figure([0, 20], {"conv1": [0.0, 1e-3], "conv2": [float("nan"), 1e-2]})
    np.testing.assert_array_equal(
        np.ma.getmaskarray(_cells(figure)), [[True, False], [True, False]]
    )


def test_the_embedding_is_what_the_last_linear_layer_gets(drawn: Drawn) -> None:
    (folder,) = drawn.folder.tensorboard.glob("*/embedding")
    images, labels = drawn.test_images()
    layer = dict(drawn.best.network.named_modules())["classifier"]
    taken: list[Tensor] = []
    layer.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    drawn.best(images)
    written = np.loadtxt(folder / "tensors.tsv", delimiter="\t")
    np.testing.assert_allclose(written, taken[0].flatten(1), rtol=1e-4, atol=1e-5)
    names = (folder / "metadata.tsv").read_text().split()
    assert names == [drawn.data.images.classes[i] for i in labels.tolist()]
