"""The attacks on the network of a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cnnexp.attacks import canaries as of_canaries
from cnnexp.attacks import shadows as of_shadows
from cnnexp.attacks.altered import altered_config
from cnnexp.attacks.canaries import Canaries
from cnnexp.attacks.membership import FEWEST_SHADOWS, likelihood_ratios, loss_scores
from cnnexp.attacks.one_run import Audit, audit_scores
from cnnexp.attacks.roc import Roc, roc
from cnnexp.attacks.scoring import ImageScores, score_images
from cnnexp.attacks.shadows import Pool, Shadow, design, pool_of
from cnnexp.attacks.trainings import run_trainings
from cnnexp.config.errors import ConfigError
from cnnexp.config.resumption import trained_on
from cnnexp.data import ImageDataModule, Samples
from cnnexp.inference import TrainedNetwork, data_of_run, load_trained
from cnnexp.inference.run_data import with_data
from cnnexp.runs import RunFolder
from cnnexp.sweeps.launcher import LauncherSettings

_CLAIM = ("privacy/epsilon", "privacy/delta")  # keys of result.json


@dataclass(frozen=True)
class Target:
    """A run that is attacked.

    Attributes:
        trained: Its network.
        data: Its own images, split as it split them.
        config: Its config, with the data where it lies now.
        extra_targets: Prefixes of ``_target_`` allowed beyond cnnexp's own list.
    """

    trained: TrainedNetwork
    data: ImageDataModule
    config: Mapping[str, Any]
    extra_targets: Sequence[str] = ()

    @classmethod
    def of_run(
        cls, trained: TrainedNetwork, data: Sequence[str] = (), extra_targets: Sequence[str] = ()
    ) -> Target:
        """The run of ``trained``; ``data`` are settings such as ``["data.root=…"]``.

        Raises:
            ConfigError: The images are not available, or not those that the run was trained on.
        """
        found = data_of_run(trained, data, extra_targets)
        if not trained_on(trained.folder, found.images.checksum):
            raise ConfigError(
                f"{' '.join(data)}: {found.images.name} as found there has another checksum than what "
                f"{trained.folder} was trained on, so that nobody knows its members; set data.root to where "
                f"the run's own data is"
            )
        return cls(trained, found, with_data(trained, data), extra_targets)

    def claim(self) -> dict[str, float]:
        """The run's claimed ε and δ; empty if it claims none."""
        return claim_of(self.trained.folder)


@dataclass(frozen=True)
class Attack:
    """The result of an attack.

    Attributes:
        curve: The receiver operating characteristic.
        accuracy: The shares of members and of non-members that the attacked network classifies correctly;
            of canaries by the labels that they have.
        details: What the method adds, in JSON's types.
        audit: The bound on ε, of an audit.
    """

    curve: Roc
    accuracy: tuple[float, float]
    details: Mapping[str, Any]
    audit: Audit | None = None


def claim_of(folder: RunFolder) -> dict[str, float]:
    """The ε and δ that the run in ``folder`` claims in result.json; empty if it claims none."""
    result = folder.read_result()
    epsilon, delta = (result.get(key) for key in _CLAIM)
    if not isinstance(epsilon, (int, float)) or not isinstance(delta, (int, float)):
        return {}
    return {"epsilon": float(epsilon), "delta": float(delta)}


def attack_by_loss(target: Target, *, seed: int = 0) -> Attack:
    """Threshold the loss: the run's training images against as many official test images."""
    members, others = _pool_scores(target.trained, target.data, pool_of(target.data, seed))
    mean = float(members.losses.mean())
    advantage = float(
        (members.losses <= mean).double().mean() - (others.losses <= mean).double().mean()
    )
    return Attack(
        roc(loss_scores(members), loss_scores(others)),
        (members.accuracy, others.accuracy),
        # Yeom et al. know the mean loss of the members and take it for the threshold
        {"mean_loss": [mean, float(others.losses.mean())], "advantage_at_mean_loss": advantage},
    )


def attack_by_shadows(
    target: Target,
    place: Path,
    *,
    shadows: int,
    seed: int = 0,
    settings: LauncherSettings | None = None,
) -> Attack:
    """Train ``shadows`` networks as the run's, and compare likelihoods.

    Raises:
        AttackError: A shadow's training has failed.
        ConfigError: There are too few shadows, or they cannot be trained.
    """
    if shadows < FEWEST_SHADOWS:
        raise ConfigError(
            f"shadows={shadows}: must be at least {FEWEST_SHADOWS}, two with each image and two without; "
            f"16 give a first idea, the paper takes 256"
        )
    configs = {}
    for number in range(shadows):
        shadow = asdict(Shadow(number, shadows, seed))
        config = altered_config(target.config, of_shadows.TARGET, {"shadow": shadow})
        own = (int(config["seed"]) + 1 + number) % 2**32
        configs[f"shadow={number}"] = {**config, "seed": own}
    folders = run_trainings(
        place / "shadows", configs, settings or LauncherSettings(), target.extra_targets
    )
    pool = pool_of(target.data, seed)
    members, others = _pool_scores(target.trained, target.data, pool)
    of_shadow = []
    for folder in folders:
        shadow = _network_of(target, folder, target.trained.checkpoint)
        pair = _pool_scores(shadow, target.data, pool)
        of_shadow.append(torch.cat([scores.confidences for scores in pair]))
    count = len(pool.members)
    ratios = likelihood_ratios(
        torch.cat([members.confidences, others.confidences]),
        torch.stack(of_shadow),
        design(2 * count, shadows, seed),
    )
    return Attack(
        roc(ratios[:count], ratios[count:]),
        (members.accuracy, others.accuracy),
        {"shadows": shadows, "trainings": str(place / "shadows")},
    )


def attack_by_audit(
    target: Target,
    place: Path,
    *,
    canaries: Canaries,
    delta: float,
    settings: LauncherSettings | None = None,
) -> Attack:
    """Train the run's config once more, with canaries, and bound its ε from below.

    Raises:
        AttackError: The training has failed.
        ConfigError: There are too many canaries, or the training cannot start.
    """
    train, classes = target.data.train, len(target.data.images.classes)
    try:
        drawn = of_canaries.draw(train, classes, canaries)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    config = altered_config(target.config, of_canaries.TARGET, {"canaries": asdict(canaries)})
    (folder,) = run_trainings(
        place / "training",
        {f"canaries={canaries.count} canary={canaries.kind}": config},
        settings or LauncherSettings(jobs=1),
        target.extra_targets,
    )
    network = _network_of(target, folder, target.trained.checkpoint)
    scores = score_images(network.classifier, drawn.samples)
    found = audit_scores(loss_scores(scores), drawn.included, delta=delta)
    claim = claim_of(folder)
    refuted = found.refutes(claim["epsilon"]) if claim else None
    inside, outside = _parts(scores, drawn.included)
    return Attack(
        roc(loss_scores(inside), loss_scores(outside)),
        (inside.accuracy, outside.accuracy),
        {
            "audit": {
                **asdict(found),
                "kind": canaries.kind,
                "claim": claim,
                "refuted": refuted,
                "training": str(folder),
            }
        },
        found,
    )


def _network_of(target: Target, folder: RunFolder, checkpoint: str) -> TrainedNetwork:
    return load_trained(
        folder,
        checkpoint.partition(".")[0],
        backward="auto",
        extra_targets=target.extra_targets,
    )


def _pool_scores(
    trained: TrainedNetwork, data: ImageDataModule, pool: Pool
) -> tuple[ImageScores, ImageScores]:
    parts: tuple[tuple[Samples, torch.Tensor], ...] = (
        (data.train, pool.members),
        (data.images.test, pool.others),
    )
    members, others = (
        score_images(trained.classifier, part.select(indices), data.eval_batch_size)
        for part, indices in parts
    )
    return members, others


def _parts(scores: ImageScores, chosen: torch.Tensor) -> tuple[ImageScores, ImageScores]:
    inside, outside = (
        ImageScores(scores.losses[which], scores.confidences[which], scores.right[which])
        for which in (chosen, ~chosen)
    )
    return inside, outside
