"""The network of a run by the run's name, as the commands name it: for programs and notebooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from torch import nn

from cnnexp.config.errors import ConfigError
from cnnexp.config.resumption import saved_config
from cnnexp.config.selection import run_to_use
from cnnexp.config.targets import allowed_prefixes
from cnnexp.inference.network import TrainedNetwork, load_trained
from cnnexp.models import offered_network
from cnnexp.runs import RunFolder


def load_run(
    run: str | Path = "latest",
    which: str | int | None = None,
    *,
    model: nn.Module | Callable[..., nn.Module] | None = None,
    checkpoint: str | None = None,
    backward: str = "native",
    allow_targets: Sequence[str] = (),
    output_dir: str | Path = "outputs",
) -> TrainedNetwork:
    """Load the network that a run has trained, as ``python -m cnnexp.evaluate run=…`` does.

    The folder may be a stranger's: checkpoints are read with ``weights_only=True``, and config.yaml
    names classes of the allow-list only.

    Args:
        run: A run folder, a sweep (its folder, or its name under ``<output_dir>/sweeps``), or
            ``"latest"``, the newest run or sweep in ``output_dir``.
        which: Of a sweep ``"best"`` (by validation; the default), a job's number, or its id.
        model: The network, where ``cnnexp.fit`` was given it as an object: a Module of the same class and
            shapes, or the class or function that makes it. It is not changed.
        checkpoint: ``"best"`` or ``"last"``; None for best.ckpt, or last.ckpt where there is no best.
        backward: The algorithm of its layers; ``"auto"`` for the one that the run chose.
        allow_targets: Module prefixes, such as ``"mylab."``, that the config may name beyond the
            allow-list and ``CNNEXP_ALLOW_TARGETS``.
        output_dir: Where ``"latest"`` and names of sweeps are looked for.

    Returns:
        The network with its classes, its image shape, its epoch and its config; and of its run ``.metrics``,
        a table, and ``.result``. ``.classifier`` takes images (N, C, H, W) in 0…1 and gives logits; it is in
        evaluation mode, on the CPU. ``.network`` is the network within.

    Raises:
        ConfigError: There is no such run, job or best job; or config.yaml holds what no run's does.
        CheckpointError: The checkpoint is missing, damaged, or not cnnexp's.
        TrainedNetworkError: The folder does not say what the network was trained on, or the checkpoint
            is not of the config's network.
    """
    named = [f"run={run}", f"output_dir={output_dir}"]
    if which is not None:
        named.append(f"which={which}")
    selected = run_to_use(named)
    assert selected is not None  # since run= is given
    extra = [*allowed_prefixes(), *allow_targets]
    with _offered(selected.folder, model):
        return load_trained(selected.folder, checkpoint, backward=backward, extra_targets=extra)


def _offered(
    folder: RunFolder, model: nn.Module | Callable[..., nn.Module] | None
) -> AbstractContextManager[None]:
    """Within it the run's config means ``model``."""
    if model is None:
        return nullcontext()
    node = saved_config(folder).get("model")
    node = node if isinstance(node, dict) else {}
    key = node.get("key")
    if not isinstance(key, str) or node.get("_target_") != "cnnexp.models.given_network":
        raise ConfigError(
            f"model: the config of {folder} names the run's network itself; leave model out"
        )
    return offered_network(model, key)
