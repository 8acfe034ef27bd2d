"""The part ``init_from`` of a config: which weights a training starts from, pinned by a checksum."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnexp.config.errors import ConfigError
from cnnexp.config.selection import run_to_use
from cnnexp.runs import RunFolder
from cnnexp.suggestions import did_you_mean

if TYPE_CHECKING:
    from cnnexp.training import StartingWeights

_SHORT = "init_from="
_OF_TORCHVISION = re.compile(r"[A-Za-z0-9_]+_Weights\.\w+")
_ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt")
_NONE = {"weights": None, "layers": [], "sha256": None}


def in_full(overrides: Sequence[str]) -> list[str]:
    """``overrides`` with ``init_from=<weights>`` as its full form, ``init_from.weights=<weights>``."""
    return [
        f"init_from.weights={override.removeprefix(_SHORT)}"
        if override.startswith(_SHORT) and not override.startswith(f"{_SHORT}{{")
        else override
        for override in overrides
    ]


def pinned(config: Mapping[str, Any], *, sweep: bool = False) -> dict[str, Any]:
    """``config`` with the weights to start from named for good: a run by its folder, all by a checksum.

    What is pinned already stays, and is not looked for: a run that is resumed has its weights.

    Args:
        config: Resolved and plain.
        sweep: Whether it is a job of a sweep.

    Raises:
        ConfigError: There are no such weights.
    """
    node = config.get("init_from")
    if node is None:
        return dict(config)
    part = {**_NONE, **({"weights": node} if not isinstance(node, Mapping) else node)}
    text = part["weights"]
    if text is not None and part["sha256"] is None:
        if not isinstance(text, str) or not text:
            raise ConfigError(
                f"init_from.weights={text}: must name a run, a file, or torchvision's weights"
            )
        if sweep and text == "latest":
            raise ConfigError(
                "init_from=latest: is another run once the sweep has begun; name the run folder"
            )
        part["weights"], file = _found(text, str(config.get("output_dir") or "outputs"))
        part["sha256"] = _sha256(file, *_version(file))
    elif text is None and (part["layers"] or part["sha256"]):
        raise ConfigError(
            "init_from.layers: are layers of other weights; name these by init_from=…"
        )
    return {**config, "init_from": part}


def starting_weights(
    weights: str | None, layers: Sequence[str], sha256: str | None
) -> StartingWeights | None:
    """The weights of a pinned part ``init_from``; None for none. No file is read."""
    from cnnexp.training import StartingWeights

    if weights is None:
        return None
    if sha256 is None:
        raise ConfigError(f"init_from.weights={weights}: comes without its init_from.sha256")
    of_torchvision = _OF_TORCHVISION.fullmatch(weights) is not None
    file = _cached(weights) if of_torchvision else _of_folder(Path(weights))
    return StartingWeights(weights, file, sha256, layers, of_torchvision)


def _found(text: str, output_dir: str) -> tuple[str, Path]:
    """The lasting name of the weights that ``text`` means, and their file."""
    if _OF_TORCHVISION.fullmatch(text):
        return text, _fetched(text)
    if text.endswith(_ENDINGS):
        if not Path(text).is_file():
            raise ConfigError(f"init_from={text}: there is no such file")
        return text, Path(text)
    run, _, which = text.rpartition(":") if ":" in text else (text, "", "")
    chosen = [f"which={which}"] if which else []
    try:
        selected = run_to_use([f"run={run}", f"output_dir={output_dir}", *chosen])
    except ConfigError as error:
        raise ConfigError(f"init_from={text}: {_in_our_words(str(error), run)}") from error
    assert selected is not None  # since run= is given
    folder = selected.folder
    file = _of_folder(folder.path)
    if not file.is_file():
        raise ConfigError(
            f"init_from={text}: the run {folder} has no checkpoint yet; wait, or name another"
        )
    return str(folder), file


def _in_our_words(message: str, run: str) -> str:
    """What was said of ``run=`` and ``which=``, said of ``init_from=``."""
    message = message.removeprefix(f"run={run}: ")
    of_job = message.replace("which=<", f"init_from={run}:<").replace(
        "run=latest", "init_from=latest"
    )
    files = (
        f"; or a file (*{', *'.join(_ENDINGS)}), or torchvision's weights, ResNet18_Weights.DEFAULT"
    )
    return of_job + (files if message.startswith("holds no run") else "")


def _of_folder(place: Path) -> Path:
    """The checkpoint that a run in ``place`` is used by; ``place`` itself where it is a file."""
    if not place.is_dir():
        return place
    run = RunFolder(place)
    return run.best_checkpoint if run.best_checkpoint.exists() else run.last_checkpoint


def _version(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=64)  # once for all jobs of a sweep
def _sha256(file: Path, _modified: int, _size: int) -> str:
    from cnnexp.training.weight_files import WeightFileError, file_sha256

    try:
        return file_sha256(file)
    except WeightFileError as error:
        raise ConfigError(f"init_from: {error}") from error


def _entry(name: str) -> Any:
    """Torchvision's record of the weights ``name``."""
    try:
        import torchvision.models as models
    except ImportError as error:
        raise ConfigError(f"init_from={name}: needs torchvision: {error}") from error
    enum = name.partition(".")[0]
    try:
        return models.get_weight(name)
    except (ValueError, KeyError, AttributeError) as error:
        kinds = [models.get_model_weights(each) for each in models.list_models(module=models)]
        known = [f"{kind.__name__}.{each}" for kind in kinds for each in kind.__members__]
        own = [each for each in known if each.startswith(f"{enum}.")]
        hint = (
            f" It has {', '.join(own)}."
            if own
            else did_you_mean(enum, {k.split(".")[0] for k in known})
        )
        raise ConfigError(f"init_from={name}: torchvision has no such weights.{hint}") from error


def _cached(name: str) -> Path:
    """Where torch keeps the file of torchvision's weights ``name``, once it has fetched them."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_entry(name).url).name


def _fetched(name: str) -> Path:
    file = _cached(name)
    if not file.is_file():
        import torch

        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            hash_prefix = file.stem.rpartition("-")[2]
            torch.hub.download_url_to_file(_entry(name).url, str(file), hash_prefix, progress=False)
        except Exception as error:  # of the connection, or the file's hash is another one
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(
                f"init_from={name}: is not in {file.parent} and cannot be fetched ({reason}); put "
                f"{file.name} there, or set TORCH_HOME to the folder of hub/checkpoints"
            ) from error
    return file
