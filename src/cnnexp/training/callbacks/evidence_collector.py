"""Collect the evidence of a training, and say what it speaks for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from cnnexp.data import ImageDataModule, is_at_hand, parts_of
from cnnexp.diagnostics import Diagnosis, Evidence, Measurement, Predictions, TracedLayer, diagnose
from cnnexp.diagnostics.data_facts import (
    NEIGHBOURS,
    QUERIES,
    duplicates,
    expected_classes,
    label_facts,
    neighbour_agreement,
    spread,
)
from cnnexp.diagnostics.diagnosis import explanation
from cnnexp.diagnostics.loss_facts import loss_facts
from cnnexp.diagnostics.network_facts import network_facts
from cnnexp.training.classifier import Classifier
from cnnexp.training.setting_facts import optimizer_facts

_LOOK = 64  # images that the untrained network is shown
_MOST_PIXELS = 30_000_000  # of the images that are compared
_FEWEST = 300  # that are compared, however large they are
_MIDWAY = 100  # steps before which a training that goes on is not judged
_CLEAR = 0.5  # strength of a cause that is named while the training goes on


class EvidenceCollector:
    """Collects the :class:`Evidence` of a training, and judges it as a whole.

    Everything random or costly is looked at once, before the first step.

    Args:
        classes: Number of classes.
        settings: Of the training, see ``setting_facts``.

    Attributes:
        evidence: The evidence so far.
    """

    def __init__(self, classes: int, settings: Mapping[str, Any] | None = None) -> None:
        self.evidence = Evidence(classes)
        self._settings = dict(settings or {})
        self._data: ImageDataModule | None = None
        self._predictions: Predictions | None = None
        self._logits: Tensor | None = None
        self._handle: Any = None
        self._counts = torch.empty(0)
        self._said = ""

    def start(self, trainer: L.Trainer, classifier: Classifier, layers: list[TracedLayer]) -> None:
        """Look at data, network and settings, unless a training that is resumed has done so."""
        data = getattr(trainer, "datamodule", None)
        self._data = data if isinstance(data, ImageDataModule) else None
        if self._data is not None:
            self._counts = torch.bincount(self._data.train.labels, minlength=1)
        if self.evidence.facts:
            return
        asked = loss_facts(classifier.loss, self.evidence.classes, classifier.device)
        facts = {**self._settings, **asked}
        private = facts.get("private", False)
        if self._data is not None and not private:
            facts |= data_facts(self._data, self.evidence.classes)
        if self._data is not None and layers and not private:
            facts |= _seen_by(classifier, self._data, layers)
        found = optimizer_facts(trainer.optimizers[0], layers, classifier.network)
        facts |= {**found, "lr": facts.get("lr") or found["lr"]}
        self.evidence.facts = facts

    def see_batch(self, labels: Tensor) -> None:
        """Note how many classes a measured batch has."""
        size = len(labels)
        if size < 2 or not len(self._counts) or self._settings.get("private", False):
            return
        expected = expected_classes(self._counts, size)
        self.evidence.add_batch(len(labels.unique()) / max(expected, 1.0))

    def measured(self, measurement: Measurement, penalties: Mapping[str, float]) -> None:
        """Take a measurement into account, with what each penalty added to the loss."""
        self.evidence.add(measurement)
        for name, value in penalties.items():
            self.evidence.add_penalty(name, value)

    def validation_begins(self, classifier: Classifier) -> None:
        """Listen to the network's answers."""
        self._predictions = Predictions(self.evidence.classes)

        def keep(_module: Any, _inputs: Any, logits: Any) -> None:
            self._logits = logits if isinstance(logits, Tensor) else None

        self._handle = classifier.network.register_forward_hook(keep)

    def validated(self, batch: Any) -> None:
        """Take the answers to a validation batch into account."""
        if self._predictions is None or self._logits is None:
            return
        if self._predictions.wants_more and len(self._logits) == len(batch[1]):
            self._predictions.add(self._logits, batch[1])
        self._logits = None

    def validation_ends(self) -> None:
        """Listen no longer."""
        if self._handle is not None:
            self._handle.remove()
        if self._predictions is not None:
            self.evidence.predictions = self._predictions.figures()
        self._handle = self._predictions = self._logits = None

    def diagnosis(self, troubles: Sequence[Mapping[str, Any]] = ()) -> Diagnosis:
        """The verdict so far; where labels are in doubt, images are compared with each other first."""
        found = diagnose(self.evidence, troubles)
        doubtful = found.outcome.bad or any(f.cause == "label noise" for f in found.findings)
        if doubtful and "neighbours" not in self.evidence.facts and self._compares():
            data = self._data
            assert data is not None
            self.evidence.facts["neighbours"] = neighbours(data)
            found = diagnose(self.evidence, troubles)
        return found

    def _compares(self) -> bool:
        data = self._data
        if data is None or self._settings.get("private", False) or len(data.train) < 20:
            return False
        return is_at_hand(data.train) and is_at_hand(data.val)

    def midway(self, troubles: Sequence[Mapping[str, Any]] = ()) -> Diagnosis | None:
        """The verdict while the training goes on, if it is clear and another than what was said last."""
        if self.evidence.steps < _MIDWAY:
            return None
        found = self.diagnosis(troubles)
        first = found.findings[0] if found.findings else None
        if not found.outcome.bad or first is None or first.strength < _CLEAR or first.rank > 3:
            return None
        if first.cause == "lr too low" and self.evidence.facts.get("scheduled", False):
            return None  # it may still be warming up
        said = f"{found.outcome.kind} {first.cause}"
        if said == self._said:
            return None
        self._said = said
        return found

    def stronger_cause(self) -> str:
        """What to try where data, network or settings explain a trouble; "" where they do not."""
        found = explanation(self.evidence)
        return "" if found is None else f"first mend its cause, {found}"

    def at_once(self) -> Diagnosis | None:
        """The faults of data and network that are seen before the first step, if there are any."""
        found = diagnose(self.evidence)
        clear = tuple(f for f in found.findings if f.known.always)
        return Diagnosis(found.outcome, clear) if clear else None

    def state_dict(self) -> dict[str, Any]:
        """The state to resume from, in plain types."""
        return {"evidence": self.evidence.as_dict(), "said": self._said}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state that :meth:`state_dict` returned."""
        self.evidence, self._said = Evidence.of(state["evidence"]), state["said"]


def data_facts(data: ImageDataModule, classes: int) -> dict[str, Any]:
    """Facts of labels and images, which are all looked at where they are at hand."""
    train, val = data.train, data.val
    facts = label_facts(train.labels, val.labels, classes)
    some, _ = train.batch(torch.linspace(0, len(train) - 1, min(len(train), _LOOK)).long())
    facts["pixel_std"] = float(some.float().std()) / 255
    if is_at_hand(train) and is_at_hand(val):
        facts["duplicates"] = duplicates(parts_of(train), parts_of(val))
    return facts


def neighbours(data: ImageDataModule) -> list[float]:
    """What ``neighbour_agreement`` gives for the validation images, and how many of them were asked.

    Without validation images, half of the training images are asked for the other half.
    """
    train, val = data.train, data.val if len(data.val) else data.train
    known, others = torch.arange(len(train)), torch.arange(len(val))
    if val is train:
        known, others = known[::2], others[1::2]
    most = min(NEIGHBOURS, max(_FEWEST, _MOST_PIXELS // math.prod(train.shape)))
    asked = spread(others, QUERIES)
    pair = neighbour_agreement(*train.batch(spread(known, most)), *val.batch(asked))
    return [*pair, float(len(asked))]


def _seen_by(
    classifier: Classifier, data: ImageDataModule, layers: Sequence[TracedLayer]
) -> dict[str, Any]:
    chosen = torch.linspace(0, len(data.train) - 1, min(len(data.train), _LOOK)).long()
    images, _ = data.train.batch(chosen)
    scaled = images.to(classifier.device).float() / 255
    return network_facts(classifier.network, layers, classifier.normalise(scaled))
