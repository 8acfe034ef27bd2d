"""The part ``accelerator`` of a config → arguments of Lightning's Trainer, and the processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from cnnexp.config.errors import ConfigError
from cnnexp.config.schema import AcceleratorConfig
from cnnexp.optim import needs_whole_weights
from cnnexp.regularization import Regularizer, takes_part
from cnnexp.runs import process_rank
from cnnexp.training import Parallelism

_SEVERAL = ("ddp", "ddp_cpu", "fsdp")  # train by several processes, by name


def accelerator_settings(config: AcceleratorConfig, *, elsewhere: bool = False) -> dict[str, Any]:
    """Arguments of ``lightning.Trainer`` that say where and with which numbers.

    Args:
        config: The typed part ``accelerator``.
        elsewhere: The training is to run on other machines, whose devices are not known here.

    Raises:
        ConfigError: This machine has no such device, or not so many.
    """
    settings: dict[str, Any] = {"precision": known_precision(config), "devices": 1}
    if elsewhere:
        return {**settings, "accelerator": "auto"}
    if config.name == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError(
                "accelerator=mps: this machine has no Metal GPU; use accelerator=auto"
            )
        return {**settings, "accelerator": "mps"}
    if not _on_gpu(config):
        return {**settings, "accelerator": "cpu" if config.name == "ddp_cpu" else config.name}
    found = _gpus()
    if found < max(1, _devices(config)):
        wanted = f" devices={config.devices}:" if found else ""
        instead = "ddp_cpu, processes on CPUs" if config.name in _SEVERAL else "cpu or auto"
        raise ConfigError(
            f"accelerator={config.name}:{wanted} this machine has {found} usable GPUs; "
            f"use accelerator={instead}"
        )
    if config.sync_batch_norm:
        settings["sync_batchnorm"] = True
    return {**settings, "accelerator": "gpu"}


def known_precision(config: AcceleratorConfig) -> str:
    """The precision in Lightning's words: of ``auto`` what was chosen, or float32 until it is."""
    return config.chosen_precision or "32-true" if config.precision == "auto" else config.precision


def parallelism(config: AcceleratorConfig, *, elsewhere: bool = False) -> Parallelism | None:
    """How several processes train together; None if one does.

    Args:
        config: The typed part ``accelerator``.
        elsewhere: As of :func:`accelerator_settings`; then the number of devices must be given.

    Raises:
        ConfigError: One process is all that this accelerator has, or other numbers of them were started.
    """
    devices, nodes = _devices(config), config.num_nodes
    here = process_rank()
    if config.name in _SEVERAL and here is not None:
        if config.devices == "auto":
            devices, nodes = here.local_ranks, here.nodes
        if here.ranks != devices * nodes:
            raise ConfigError(
                f"accelerator.devices={config.devices}, num_nodes={nodes}: {here.ranks} processes were "
                f"started, {here.local_ranks} on this machine; they must be devices × num_nodes"
            )
    if devices * nodes == 1 or (elsewhere and config.devices == "auto"):
        return None
    on_gpu = _on_gpu(config)
    if config.name in ("cpu", "mps") or (config.name == "auto" and not on_gpu):
        raise ConfigError(
            f"accelerator={config.name}, devices={devices}: one process trains here; use "
            f"accelerator=ddp_cpu for several, or accelerator=ddp for several GPUs"
        )
    strategy: Callable[[], Strategy] = partial(_ddp, config, on_gpu)
    if config.name == "fsdp":  # one checkpoint, as of any other run
        strategy = partial(FSDPStrategy, state_dict_type="full")
    return Parallelism(strategy, devices, nodes, "cpu:gloo,cuda:nccl" if on_gpu else "gloo")


def check_nodes(parallel: Parallelism | None) -> None:
    """Make sure that somebody has started the processes of a training by several machines.

    Raises:
        ConfigError: Nobody has.
    """
    if parallel is not None and parallel.nodes > 1 and process_rank() is None:
        raise ConfigError(
            f"accelerator.num_nodes={parallel.nodes}: start one process a device on each machine, with "
            f"torchrun --nnodes={parallel.nodes} --nproc-per-node={parallel.devices} … -m cnnexp.train …, "
            f"or with hydra/launcher=slurm"
        )


def check_batch(batch_size: int, parallel: Parallelism | None) -> None:
    """Make sure that each process gets as much of a batch as the others.

    Raises:
        ConfigError: The batch cannot be cut so.
    """
    if parallel is not None and batch_size % parallel.ranks:
        near = max(1, round(batch_size / parallel.ranks)) * parallel.ranks
        raise ConfigError(
            f"data.batch_size={batch_size}: cannot be cut into {parallel.ranks} equal parts, one for each "
            f"of {parallel.devices} devices × {parallel.nodes} nodes; take {near}"
        )


def check_sharded(
    config: AcceleratorConfig, optimizer: type, regularizing: Sequence[Regularizer]
) -> None:
    """Make sure that nothing looks at whole weights where each process has a part of them.

    Raises:
        ConfigError: Something does.
    """
    if config.name != "fsdp":
        return
    looking = [f"regularization={each.name}" for each in regularizing if _looks_at_weights(each)]
    if needs_whole_weights(optimizer):
        looking.append(optimizer.__name__)
    if looking:
        raise ConfigError(
            f"accelerator=fsdp: {looking[0]} needs each weight whole, of which every process has a part; use "
            f"accelerator=ddp"
        )


def _looks_at_weights(regularizer: Regularizer) -> bool:
    if regularizer.whole_weights is not None:
        return regularizer.whole_weights
    return any(takes_part(regularizer, event) for event in ("penalty", "gradients", "weights"))


def _ddp(config: AcceleratorConfig, on_gpu: bool) -> Strategy:
    hooks = {
        "none": None,
        "bf16": default_hooks.bf16_compress_hook,
        "fp16": default_hooks.fp16_compress_hook,
    }
    return DDPStrategy(
        process_group_backend="nccl" if on_gpu else "gloo",
        ddp_comm_hook=hooks[config.gradient_compression],
        bucket_cap_mb=config.bucket_mb,
        gradient_as_bucket_view=True,
    )


def _on_gpu(config: AcceleratorConfig) -> bool:
    if config.name == "auto":
        return config.devices != 1 and _gpus() > 0
    return config.name in ("gpu", "ddp", "fsdp")


def _gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _devices(config: AcceleratorConfig) -> int:
    """Processes on this machine; 0 GPUs are left for others to complain about."""
    if isinstance(config.devices, int):
        return config.devices
    return _gpus() if _on_gpu(config) else 1
