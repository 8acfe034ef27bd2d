"""What an attack found, as the content of attack.json, and as lines for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnexp.attacks.on_runs import Attack, Target

_KINDS = {"pattern": "random patterns and labels", "label": "training images, wrong labels"}


def content_of(target: Target, found: Attack, method: str, command: str) -> dict[str, Any]:
    """The content of attack.json, in JSON's types.

    Args:
        target: The run that was attacked.
        found: The result.
        method: ``loss``, ``lira`` or ``audit``.
        command: The command that makes it again.
    """
    trained, images = target.trained, target.data.images
    members, others = found.accuracy
    return {
        "run": str(trained.folder),
        "checkpoint": trained.checkpoint,
        "epoch": trained.epoch,
        "dataset": images.name,
        "checksum": images.checksum,
        "command": command,
        "method": method,
        "claim": target.claim(),
        "accuracy": {"members": members, "non_members": others, "gap": members - others},
        **found.details,
        "curve": found.curve.as_dict(),
        "verdict": _verdict(target, found),
    }


def rows_of(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of the figures, with how many images they are of and their 95 % intervals."""
    curve, accuracy = content["curve"], content["accuracy"]
    low, high = curve["auc_95"]
    rows = [("images", _images(content))]
    if content["method"] == "lira":
        rows.append(("shadow trainings", f"{content['shadows']:,}, in {content['trainings']}"))
    rows.append(("AUC", f"{curve['auc']:.4f}  ({low:.4f} – {high:.4f}, 95 %, DeLong)"))
    for rate in curve["tpr_at_fpr"]:
        rows.append(
            (
                f"TPR at FPR {rate['at']:.1%}",
                f"{rate['value']:.2%}  ({rate['low']:.2%} – {rate['high']:.2%}, 95 %), "
                f"{rate['false_positives']} false positives of {curve['non_members']:,}",
            )
        )
    names = ("in", "out") if content["method"] == "audit" else ("members", "others")
    rows.append(
        (
            "accuracy",
            f"{accuracy['members']:.2%} {names[0]}, {accuracy['non_members']:.2%} {names[1]}, "
            f"gap {accuracy['gap']:+.2%}",
        )
    )
    if content["method"] == "loss":
        rows.append(
            (
                "advantage",
                f"{content['advantage_at_mean_loss']:+.2%} at the members' mean loss "
                f"{content['mean_loss'][0]:.4g} (others: {content['mean_loss'][1]:.4g})",
            )
        )
    if audit := content.get("audit"):
        rows += _of_audit(audit)
    return rows


def _images(content: Mapping[str, Any]) -> str:
    curve = content["curve"]
    together = curve["members"] + curve["non_members"]
    if content["method"] == "audit":
        return (
            f"{together:,} canaries ({_KINDS[content['audit']['kind']]}): "
            f"{curve['members']:,} trained on, {curve['non_members']:,} left out"
        )
    return f"{curve['members']:,} of {content['dataset']} that it was trained on, and as many test images"


def _of_audit(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    claim = audit["claim"]
    said = (
        f"{claim['epsilon']:.4g} at δ = {claim['delta']:g}, by this training" if claim else "none"
    )
    return [
        ("guesses", f"{audit['correct']:,} of {audit['guesses']:,} right"),
        (
            "ε at least",
            f"{audit['epsilon']:.3f} at δ = {audit['delta']:g}, {audit['confidence']:.0%} confidence",
        ),
        ("ε claimed", said),
        ("training", str(audit["training"])),
    ]


def _verdict(target: Target, found: Attack) -> str:
    if found.audit is not None:
        return _of_bound(found)
    low, high = found.curve.auc_interval()
    claim = target.claim()
    promised = (
        f" The run claims ε = {claim['epsilon']:.4g} at δ = {claim['delta']:g}." if claim else ""
    )
    if low > 0.5:
        return f"Members can be told from others: AUC {found.curve.auc:.3f}, above 0.5.{promised}"
    if high < 0.5:  # as by chance in one attack of 40
        return (
            f"Members look less like members than others do: AUC {found.curve.auc:.3f}.{promised}"
        )
    return (
        f"This attack tells members from others no better than guessing does (AUC 0.5 is within the "
        f"interval); a stronger one may.{promised}"
    )


def _of_bound(found: Attack) -> str:
    audit, claim = found.audit, found.details["audit"]["claim"]
    assert audit is not None
    bound = f"ε ≥ {audit.epsilon:.2f} with {audit.confidence:.0%} confidence"
    if not claim:
        return f"{bound}; the training claims no ε."
    claimed = f"ε = {claim['epsilon']:.4g} at δ = {claim['delta']:g}"
    if audit.refutes(claim["epsilon"]):
        return (
            f"REFUTED: {bound}, but the training claims {claimed}. Its privacy is not what it says."
        )
    return f"{bound}; the claim {claimed} stands (an audit can refute a claim, not prove it)."
