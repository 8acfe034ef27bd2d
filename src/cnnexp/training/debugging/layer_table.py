"""Tables of what torch's profiler measured: by layer, forward and backward, and by operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import profile

PREFIX = "layer "  # of the range that a layer's forward is
_BACKWARD = "autograd::engine::evaluate_function: "
_LOSS, _OPTIMIZER, _OTHER = "(loss)", "(optimizer)", "(other)"


@dataclass
class Cost:
    """What a part of the steps costs, in total.

    Attributes:
        forward, backward: Seconds, of the GPU where there is one, else of the processor.
        operators: Calls of operators.
        kernels: Kernels of a GPU.
        allocated: Bytes of all tensors that were made, also of those that were freed again.
    """

    forward: float = 0.0
    backward: float = 0.0
    operators: int = 0
    kernels: int = 0
    allocated: int = 0


def costs_by_layer(events: Iterable[Any]) -> dict[str, Cost]:
    """The cost of each layer by its name, in the order in which they are called; then of all else.

    The operators of a backward are those of the layer whose forward made them: both have one sequence number.

    Args:
        events: Of ``torch.profiler``, with the forward of each layer in a range ``layer <name>``.
    """
    on_processor = [event for event in events if event.device_type == DeviceType.CPU]
    owners = {id(event): _owner(event) for event in on_processor}
    layer_of = {
        event.sequence_nr: owners[id(event)][0]
        for event in on_processor
        if event.sequence_nr >= 0 and owners[id(event)][1] == "forward"
    }
    gpu = any(event.kernels for event in on_processor)
    made: dict[str, Cost] = defaultdict(Cost)
    last: dict[str, Cost] = defaultdict(Cost)
    for event in on_processor:
        name, phase, sequence = owners[id(event)]
        if phase == "backward":
            name = layer_of.get(sequence, _LOSS)
        cost = (last if name.startswith("(") else made)[name]
        seconds = (event.self_device_time_total if gpu else event.self_cpu_time_total) / 1e6
        if phase == "backward":
            cost.backward += seconds
        else:
            cost.forward += seconds
        cost.operators += not event.name.startswith((PREFIX, _BACKWARD))
        cost.kernels += len(event.kernels)
        cost.allocated += max(0, event.self_cpu_memory_usage) + max(
            0, event.self_device_memory_usage
        )
    return {**made, **{name: last[name] for name in (_LOSS, _OPTIMIZER, _OTHER) if name in last}}


def _owner(event: Any) -> tuple[str, str, int]:
    """The layer that an operator is of, or "" if the sequence number has to tell it; forward or backward."""
    at = event
    while at is not None:
        if at.name.startswith(PREFIX):
            return at.name.removeprefix(PREFIX), "forward", -1
        if at.name.startswith(_BACKWARD):
            return "", "backward", at.sequence_nr
        if at.name.startswith("Optimizer."):
            return _OPTIMIZER, "other", -1
        at = at.cpu_parent
    return _OTHER, "other", -1


def layer_table(costs: dict[str, Cost], steps: int) -> str:
    """The costs of one step as a table of text: a line a layer, and one for their sum."""
    whole = sum(cost.forward + cost.backward for cost in costs.values()) or 1.0
    width = max(len("layer"), *(len(name) for name in costs)) + 2
    gpu = any(cost.kernels for cost in costs.values())
    lines = [
        f"{'layer':{width}}{'forward ms':>12}{'backward ms':>13}{'share':>9}{'operators':>11}"
        + (f"{'kernels':>9}" if gpu else "")
        + f"{'allocated MB':>14}"
    ]
    total = Cost(
        sum(cost.forward for cost in costs.values()),
        sum(cost.backward for cost in costs.values()),
        sum(cost.operators for cost in costs.values()),
        sum(cost.kernels for cost in costs.values()),
        sum(cost.allocated for cost in costs.values()),
    )
    for name, cost in {**costs, "sum": total}.items():
        if not cost.operators:  # as the parts that a fused block has computed
            continue
        lines.append(
            f"{name:{width}}{1e3 * cost.forward / steps:>12.3f}{1e3 * cost.backward / steps:>13.3f}"
            f"{(cost.forward + cost.backward) / whole:>9.1%}{cost.operators / steps:>11,.0f}"
            + (f"{cost.kernels / steps:>9,.0f}" if gpu else "")
            + f"{cost.allocated / steps / 1e6:>14.2f}"
        )
    return "\n".join(lines)


def operator_table(profiler: profile) -> str:
    """Torch's table of the operators by their own time, summed over all steps: calls, times, bytes."""
    averages = profiler.key_averages()
    gpu = any(event.kernels for event in profiler.events() or ())
    own = "self_device_time_total" if gpu else "self_cpu_time_total"
    return averages.table(sort_by=own, row_limit=200, max_name_column_width=60)
