"""What a finding of the diagnosis is, and the names that findings have: the glossary of causes.

Each cause has a rule in one of the files ``data_causes``, ``setup_causes`` and ``step_causes``; it looks at
the :class:`Evidence` and returns a :class:`Finding`, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cnnexp.diagnostics.evidence import Evidence
from cnnexp.diagnostics.outcome import Outcome


@dataclass(frozen=True)
class Cause:
    """An entry of the glossary.

    Attributes:
        meaning: What it means and why a training suffers from it, in a sentence.
        section: The place in ``docs/derivation.md`` that explains the mechanism; "" for none.
        rank: A lower one is named first: 0 for faults that can be seen without training, 1 for settings
            that outweigh the loss, 2 for the state at the first step, 3 for the size of steps, 4 for what
            follows from others.
        always: Whether it is named even if the training learned.
    """

    meaning: str
    section: str = ""
    rank: int = 3
    always: bool = False


CAUSES: Mapping[str, Cause] = {
    "labels constant": Cause(
        "All training images have one label, so that a constant answer has no loss.",
        rank=0,
        always=True,
    ),
    "classes missing": Cause(
        "Some classes have no training image: the data is incomplete, or its labels are counted from 1.",
        rank=0,
        always=True,
    ),
    "labels do not fit": Cause(
        "Images that look alike have labels that do not agree more often than by chance: labels were "
        "shuffled, or belong to other images.",
        rank=0,
        always=True,
    ),
    "label noise": Cause(
        "Where the network errs, the label is as often its last choice as its second: many labels are wrong.",
        rank=1,
        always=True,
    ),
    "images constant": Cause(
        "All pixels have nearly one value, so that there is nothing to see.", rank=0
    ),
    "images not normalised": Cause(
        "The first layer gets numbers far from mean 0 and standard deviation 1, which its weights and "
        "learning rate are made for.",
        "convolution",
        0,
        True,
    ),
    "duplicates": Cause(
        "Validation images are training images as well, so that validation says nothing about others.",
        rank=1,
        always=True,
    ),
    "sorted batches": Cause(
        "Batches hold fewer classes than shuffled ones would: each step unlearns what the last one taught.",
        rank=0,
        always=True,
    ),
    "outputs squashed": Cause(
        "The network ends in a softmax, sigmoid, tanh or ReLU, and the loss applies a softmax to that: it "
        "cannot become small, and its gradient is nearly gone or cut.",
        "relu-the-linear-layer-and-the-loss",
        0,
        True,
    ),
    "frozen": Cause("Most parameters are told not to train.", rank=0),
    "no gradient": Cause(
        "A layer that should train gets no gradient: it is detached from the loss.",
        rank=0,
        always=True,
    ),
    "no update": Cause(
        "A layer has a gradient, but the optimiser does not change it: it was not given to the optimiser.",
        rank=0,
        always=True,
    ),
    "weights constant": Cause(
        "All weights of a layer are equal, so that its units have one gradient and stay equal.",
        rank=0,
    ),
    "random in evaluation": Cause(
        "Two evaluations of the same images differ: dropout or noise is on where it should be off.",
        rank=1,
        always=True,
    ),
    "tiny batch": Cause(
        "Batch normalisation over a few images gives each image statistics that are mostly its own.",
        rank=1,
    ),
    "dropout": Cause("Dropout leaves out so much that hardly anything passes.", rank=1),
    "penalty too strong": Cause(
        "The penalty on the weights outweighs the loss: the network makes its weights small instead of "
        "learning.",
        rank=1,
    ),
    "clipped": Cause("The gradient is clipped far below its size, so that steps are tiny.", rank=1),
    "exploding": Cause(
        "The gradient grows on its way back or from step to step, until numbers end.",
        "relu-the-linear-layer-and-the-loss",
        2,
    ),
    "vanishing": Cause(
        "Each layer on the way back multiplies the gradient by a factor below 1: the first layers get almost "
        "nothing.",
        "relu-the-linear-layer-and-the-loss",
        2,
    ),
    "saturated": Cause(
        "Most outputs of a tanh or sigmoid are at its ends, where its derivative is nearly 0.",
        "relu-the-linear-layer-and-the-loss",
        2,
    ),
    "dead": Cause(
        "Units of a ReLU give 0 for every image, so that no gradient passes.",
        "relu-the-linear-layer-and-the-loss",
        2,
    ),
    "oscillating": Cause(
        "Steps jump over the minimum, to and fro, so that the loss does not fall."
    ),
    "lr too high": Cause("Steps are so large that they jump past what lowers the loss."),
    "lr too low": Cause("All steps together are too small to lower the loss by much."),
    "too short": Cause("There were few steps, and the loss was still falling."),
    "overfitting": Cause(
        "The network knows the training images by heart, and does much worse on others.",
        rank=4,
        always=True,
    ),
    "stuck": Cause("The loss does not fall, and none of the measurements says why.", rank=4),
}


@dataclass(frozen=True)
class Finding:
    """One cause that the evidence speaks for.

    Attributes:
        cause: Its name, one of ``CAUSES``.
        strength: From 0 to 1: how clearly the evidence speaks for it.
        evidence: The numbers that do, in words.
        suggestion: What to try, in words.
        overrides: The same as arguments of ``cnnexp.train``, if it can be said by these.
        layer: The layer concerned; "" for the training as a whole.
        consequences: What else was seen and follows from it.
        late: Whether it shows at the end only, and so may follow from another cause.
    """

    cause: str
    strength: float
    evidence: str
    suggestion: str
    overrides: tuple[str, ...] = ()
    layer: str = ""
    consequences: tuple[str, ...] = field(default=())
    late: bool = False

    def __str__(self) -> str:
        then = f" (hence {'; '.join(self.consequences)})" if self.consequences else ""
        return f"{self.cause}: {self.evidence}{then}: {self.advice}"

    @property
    def known(self) -> Cause:
        """Its entry in the glossary."""
        return CAUSES[self.cause]

    @property
    def rank(self) -> int:
        """The rank of its cause; 4 if it shows at the end only."""
        return 4 if self.late else self.known.rank

    @property
    def advice(self) -> str:
        """What to try, with the arguments of the command line."""
        arguments = " ".join(self.overrides)
        return f"{self.suggestion} ({arguments})" if arguments else self.suggestion

    def as_dict(self) -> dict[str, Any]:
        """The attributes, the meaning and where it is explained, for JSON."""
        own = asdict(self) | {"overrides": list(self.overrides)}
        own["consequences"] = list(self.consequences)
        derived = f"docs/derivation.md#{self.known.section}" if self.known.section else ""
        return {**own, "meaning": self.known.meaning, "derived": derived}


REGULARISE = "regularization=[l2,dropout,random_shift]"


def rate_times(evidence: Evidence, factor: float) -> tuple[str, ...]:
    """The learning rate times ``factor``, to one digit, as an argument of the command line; () if unknown."""
    rate = evidence.facts.get("lr")
    return (f"optimizer.lr={rate * factor:.1g}",) if rate else ()


CauseRule = Callable[[Evidence, Outcome], Finding | None]
