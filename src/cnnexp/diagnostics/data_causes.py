"""Causes that lie in labels, images and batches."""

from __future__ import annotations

from cnnexp.diagnostics.causes import CauseRule, Finding
from cnnexp.diagnostics.data_facts import above_chance
from cnnexp.diagnostics.evidence import Evidence
from cnnexp.diagnostics.outcome import Outcome

_COPIES = 0.01  # share of validation images that are training images
_MEAN, _STD, _FLAT = 2.0, 4.0, 0.02  # of what the first layer gets
_FEW_CLASSES = 0.6  # of those that a shuffled batch would have
_WRONG, _RANK, _ERRORS = 0.1, 0.33, 30  # of errors that wrong labels explain


def labels_constant(evidence: Evidence, _outcome: Outcome) -> Finding | None:
    """Report training labels that are all the same."""
    facts = evidence.facts
    if facts.get("present", 2) > 1:
        return None
    text = f"all {facts['train_images']:,} training images have one label"
    return Finding("labels constant", 1.0, text, "look at how the labels are read")


def classes_missing(evidence: Evidence, _outcome: Outcome) -> Finding | None:
    """Report classes without a training image."""
    missing = evidence.facts.get("missing", [])
    if not missing or evidence.facts.get("present", 2) < 2:
        return None
    present, classes = evidence.facts["present"], evidence.classes
    names = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
    text = f"{classes - present} of {classes} classes have no training image: {names}"
    unseen = evidence.facts.get("unseen", 0.0)
    if unseen:
        text += f"; {unseen:.0%} of the validation images are of these"
    first = missing == [0] or (missing[0] == 0 and present == classes - 1)
    advice = (
        "count the labels from 0" if first else "complete the images, or name the classes there are"
    )
    return Finding("classes missing", 0.5 + unseen / 2, text, advice)


def labels_do_not_fit(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report labels that images of the same look do not share."""
    found = evidence.facts.get("neighbours")
    if found is None or not (outcome.bad or outcome.doubtful):
        return None
    share, chance, count = found
    if above_chance(share, chance, count):
        return None
    text = (
        f"the most similar training image has the same label for {share:.0%} of {count:.0f} images, and "
        f"would for {chance:.0%} if labels were arbitrary"
    )
    advice = "look at some images beside their labels, and at how the two are put together"
    return Finding("labels do not fit", 0.9, text, advice)


def label_noise(evidence: Evidence, outcome: Outcome) -> Finding | None:
    """Report errors in which the label is no better than any other class."""
    seen = evidence.predictions
    wrong, rank = seen.get("wrong", 0.0), seen.get("error_rank", 0.0)
    if evidence.classes < 4 or outcome.gain is None or outcome.gain < 0.15:
        return None
    if wrong < _WRONG or rank < _RANK or wrong * seen["images"] < _ERRORS:
        return None
    text = (
        f"{wrong:.0%} of {seen['images']:,} validation images are classified otherwise than labelled, and "
        f"their labels stand at {rank:.0%} of the way from the second choice to the last; arbitrary labels "
        f"stand at 50%"
    )
    advice = "look at the images with the greatest loss, and correct their labels"
    more = ("regularization=label_smoothing",)
    return Finding("label noise", min(1.0, rank / 0.5), text, advice, more)


def images_constant(evidence: Evidence, _outcome: Outcome) -> Finding | None:
    """Report images in which there is nothing to see."""
    spread = evidence.facts.get("pixel_std")
    if spread is None or spread > _FLAT:
        return None
    text = f"the pixels have a standard deviation of {spread:.2g}, on a scale where white is 1"
    return Finding("images constant", 1.0, text, "keep pixels as whole numbers from 0 to 255")


def images_not_normalised(evidence: Evidence, _outcome: Outcome) -> Finding | None:
    """Report a first layer that gets numbers of another scale than its weights are made for."""
    mean, std = evidence.facts.get("input_mean"), evidence.facts.get("input_std")
    if mean is None or std is None:
        return None
    flat = 0 < std < _FLAT and evidence.facts.get("pixel_std", 1.0) > _FLAT
    if abs(mean) < _MEAN and std < _STD and not flat:
        return None
    text = f"the first layer gets values of mean {mean:.3g} and standard deviation {std:.3g}"
    advice = "give the data set the mean and standard deviation of its pixels, in 0…1"
    return Finding("images not normalised", 1.0, text, advice)


def copies(evidence: Evidence, _outcome: Outcome) -> Finding | None:
    """Report validation images that are trained on."""
    share = evidence.facts.get("duplicates", 0.0)
    if share < _COPIES or share * evidence.facts.get("val_images", 0) < 3:
        return None
    text = f"{share:.1%} of the validation images are training images, pixel by pixel"
    return Finding("duplicates", share, text, "remove the copies before the images are split")


def sorted_batches(evidence: Evidence, _outcome: Outcome) -> Finding | None:
    """Report batches of few classes."""
    share = evidence.batch_classes
    if share is None or share > _FEW_CLASSES or evidence.facts.get("present", 2) < 2:
        return None
    text = f"a batch has {share:.0%} of the classes that a shuffled one would have"
    return Finding("sorted batches", 1 - share, text, "shuffle the training images in each epoch")


RULES: tuple[CauseRule, ...] = (
    labels_constant,
    classes_missing,
    labels_do_not_fit,
    label_noise,
    images_constant,
    images_not_normalised,
    copies,
    sorted_batches,
)
