from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support
from torch.utils.data import DataLoader

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.config.resolvers import register_resolvers
from cnnexp.data import batch_loader, load_digits
from cnnexp.inference import Evaluation, evaluate, load_trained
from cnnexp.inference.evaluation import with_weights
from cnnexp.inference.run_data import data_of_run, judges_of_run
from cnnexp.runs import RunFolder
from cnnexp.training import read_checkpoint, run_training


def _test_batches(run: RunFolder) -> DataLoader:
    data = build_job(run.read_config()).data
    return batch_loader(data.images.test, 100)


@pytest.fixture(scope="module")
def found(digits_run: RunFolder) -> Evaluation:
    trained = load_trained(digits_run, backward="auto")
    return evaluate(trained.classifier, _test_batches(digits_run))


def test_it_is_what_the_run_itself_measured(digits_run: RunFolder, found: Evaluation) -> None:
    result = digits_run.read_result()
    assert found.accuracy == pytest.approx(result["test/acc"], abs=1e-6)
    assert found.loss == pytest.approx(result["test/loss"], rel=1e-5)


def test_every_figure_is_that_of_scikit_learn(digits_run: RunFolder, found: Evaluation) -> None:
    trained = load_trained(digits_run)
    logits, labels = [], []
    for pixels, classes in _test_batches(digits_run):
        with torch.inference_mode():
            logits.append(trained.classifier(pixels.float() / 255))
        labels.append(classes)
    p = torch.cat(logits).double().softmax(1).numpy()
    y = torch.cat(labels).numpy()
    guess = p.argmax(1)
    assert found.confusion == confusion_matrix(y, guess).tolist()
    assert found.loss == pytest.approx(log_loss(y, p), rel=1e-4)
    missing: Any = np.nan  # which the signature knows as text alone
    expected: Any = precision_recall_fscore_support(y, guess, zero_division=missing)
    rows = found.by_class()
    for i, name in enumerate(("precision", "recall", "f1", "images")):
        assert [row[name] for row in rows] == pytest.approx(expected[i].tolist(), nan_ok=True)
    sure, right = p.max(1), guess == y
    bins = np.minimum((sure * 15).astype(int), 14)
    gaps = [
        (bins == b).mean() * abs(sure[bins == b].mean() - right[bins == b].mean())
        for b in np.unique(bins)
    ]
    assert found.calibration_error == pytest.approx(sum(gaps), abs=1e-4)


def test_the_interval_is_wilsons() -> None:
    ten = Evaluation(10, 0.0, 0.0, [[9, 1], [0, 0]])
    assert ten.accuracy == 0.9
    assert ten.interval() == pytest.approx(
        (0.5958, 0.9821), abs=1e-4
    )  # Newcombe (1998), table I's way
    perfect = Evaluation(100, 0.0, 0.0, [[100, 0], [0, 0]]).interval()
    assert perfect == pytest.approx((0.9630, 1.0), abs=1e-4)


def test_a_class_without_images_or_guesses_has_no_figures() -> None:
    rows = Evaluation(2, 0.0, 0.0, [[2, 0], [0, 0]]).by_class()
    assert rows[1]["images"] == 0
    assert all(math.isnan(rows[1][key]) for key in ("precision", "recall", "f1"))


def test_the_weights_trained_on_are_others_and_come_back(digits_run: RunFolder) -> None:
    trained = load_trained(digits_run)
    assert trained.trained_weights is not None
    saved = read_checkpoint(digits_run.best_checkpoint)
    before = {k: v.clone() for k, v in trained.classifier.state_dict().items()}
    assert all(torch.equal(before[k], v) for k, v in saved["state_dict"].items())
    with with_weights(trained.classifier, trained.trained_weights):
        inside = trained.classifier.state_dict()
        assert all(torch.equal(inside[k], v) for k, v in saved["training_weights"].items())
        assert not torch.equal(
            inside["network.classifier.weight"], before["network.classifier.weight"]
        )
    after = trained.classifier.state_dict()
    assert all(torch.equal(before[k], v) for k, v in after.items())


def test_no_images_are_an_error(digits_run: RunFolder) -> None:
    trained = load_trained(digits_run)
    with pytest.raises(ValueError, match="there are no images to evaluate on"):
        evaluate(trained.classifier, DataLoader([]))  # pyright: ignore[reportArgumentType]


def test_the_runs_own_loss_and_metrics(tmp_path: Path) -> None:
    register_resolvers()
    given = [
        *("data=digits", "data.train_size=160", "data.val_size=40", "data.eval_batch_size=50"),
        *(
            "model=tiny",
            "backward=native",
            "accelerator=cpu",
            "trainer.max_epochs=1",
            "logger=none",
        ),
        *("loss=focal", "loss.class_weights=balanced", "metrics=[f1,auroc]", "diagnostics=off"),
    ]
    config = plain_config(Composer("train").compose(given))
    folder = RunFolder(tmp_path)
    result = run_training(build_job(config), folder)
    trained = load_trained(folder)
    data = data_of_run(trained)
    loss, metrics = judges_of_run(trained, data)
    found = evaluate(trained.classifier, batch_loader(data.images.test, 50), loss, metrics)
    assert found.loss == pytest.approx(result["test/loss"], rel=1e-5)
    assert found.metrics == pytest.approx(
        {k: result[f"test/{k}"] for k in ("f1", "auroc")}, rel=1e-5
    )
    assert found.as_dict()["metrics"] == found.metrics
    plain = evaluate(trained.classifier, batch_loader(data.images.test, 50))
    assert plain.loss != pytest.approx(found.loss, rel=0.05)
    assert plain.metrics == {}


@pytest.mark.parametrize("names", [[*"9876543210"], ["nine", *"876543210"]], ids=["same", "other"])
def test_classes_of_other_data_are_known_by_their_names(
    names: list[str],
    digits_run: RunFolder,
    found: Evaluation,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As of folders, which are sorted as text, beside a table, whose classes are sorted as numbers."""
    digits = load_digits().test
    images, labels = digits.batch(torch.arange(len(digits)))
    file = tmp_path / "mine.npz"
    pixels, turned = images.numpy(), 9 - labels.numpy()
    np.savez(file, images=pixels, labels=turned, test_images=pixels, test_labels=turned)
    trained = load_trained(digits_run, backward="auto")
    own = ["data=arrays", f"data.file={file}", f"data.names=[{','.join(names)}]"]
    test = data_of_run(trained, own).images.test
    again = evaluate(trained.classifier, batch_loader(test, 100))
    if names[0] == "9":
        assert again.confusion == found.confusion
        assert caplog.text == ""
    else:
        assert (
            "data: the classes of mine have other names than the run's, as nine for 0: they"
            in caplog.text
        )
        assert again.accuracy < 0.5
