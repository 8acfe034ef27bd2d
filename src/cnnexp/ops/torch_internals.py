"""What cnnexp uses of torch's private interface; no other file of the package does.

Each use is one function, which says what public way was looked for. Tried with torch 2.14.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad
from torch.autograd.graph import Node
from torch.nn.modules import module as modules
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

__all__ = [
    "as_it_is",
    "constant_when_compiled",
    "exporting",
    "factors_of",
    "forward_level",
    "hand_over_hooks",
    "has_hooks",
    "has_hooks_of_all",
    "in_backward",
    "in_torch_func",
    "is_batched_by_autograd",
    "is_replica",
    "makers_of_sum",
    "norms",
    "notes_on",
    "repeatable_backward",
    "tell_of_graphs",
    "transformed",
    "unseen_by_modes",
    "watching",
    "writes_into",
]

_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
)

_Asked = TypeVar("_Asked", bound=Callable[..., Any])


def constant_when_compiled(function: _Asked) -> _Asked:
    """``function``, whose answers the compiler takes as they are when it traces.

    ``torch.compiler.assume_constant_result`` was looked at: it sets this mark, and imports the compiler,
    which takes a second that most programs never need.
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def transformed() -> bool:
    """Whether the call is traced by ``torch.compile``, or stands in ``torch.func`` or forward mode.

    Each call of each op asks, so all three questions are put here; what was looked at for them stands at
    :func:`in_torch_func` and :func:`forward_level`.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def in_torch_func() -> bool:
    """Whether the call stands in a transform of ``torch.func``: vmap, grad, jvp, ….

    ``torch.func`` was looked at: it has no question of the kind. Dynamo knows this one, so that it breaks no
    graph.
    """
    return torch._C._are_functorch_transforms_active()


def exporting() -> bool:
    """Whether ``torch.export`` runs.

    ``torch.compiler.is_exporting`` was looked at: before torch 2.12 it is true under ``torch.compile`` as
    well. This is what it returns outside of it, and what the compiler of later versions takes for it.
    """
    return torch.compiler._is_exporting_flag


def is_replica(module: nn.Module) -> bool:
    """Whether ``module`` is a replica that ``nn.DataParallel`` makes for one pass on one of its devices.

    ``torch.nn.parallel`` was looked at: it has no question of the kind; ``replicate`` leaves this mark.
    """
    return bool(getattr(module, "_is_replica", False))


def as_it_is(tensor: Tensor) -> Tensor:
    """``tensor``: a hook that unpacks what is kept, where others may do so at any time."""
    return tensor


def factors_of(product: Tensor) -> tuple[Tensor, Tensor] | None:
    """The two tensors of which autograd knows that ``product`` is their product, and which it keeps.

    None for all else, and where hooks pack what is kept (``torch.autograd.graph.saved_tensors_hooks``,
    ``torch.utils.checkpoint``): unpacking is then for the backward alone, but for :func:`as_it_is`.
    ``torch.autograd.graph`` was looked at: it has no name without an underscore for what a node keeps, nor
    can it be asked for hooks.
    """
    node = product.grad_fn
    if node is None or node.name() != "MulBackward0":
        return None
    asked: Any = torch._C
    hooks = asked._autograd._top_saved_tensors_default_hooks(True)
    if hooks is not None and hooks[1] is not as_it_is:
        return None
    try:
        one, other = (getattr(node, name, None) for name in ("_saved_self", "_saved_other"))
    except RuntimeError:  # written to since
        return None
    return (one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else None


def forward_level() -> int:
    """How many levels of forward mode the call stands in, less 1: -1 outside of them.

    ``torch.autograd.forward_ad.unpack_dual`` was looked at: it tells of one tensor, at some cost, and an op
    has to choose its Function before it knows which of its arguments have tangents.
    """
    return forward_ad._current_level


def is_batched_by_autograd(tensor: Tensor) -> bool:
    """Whether ``tensor`` is one of ``torch.autograd.grad(is_grads_batched=True)``, which ``gradcheck`` uses.

    ``torch.func`` and the type of the tensor were looked at: neither tells it from any other tensor.
    """
    return is_legacy_batchedtensor(tensor)


def makers_of_sum(total: Tensor) -> list[tuple[Node, int]]:
    """The nodes of autograd's graph that made the two operands of ``total``, and which outputs they are.

    Empty where ``total`` is no plain sum, or an operand has no node or is a leaf. ``torch.autograd.graph``
    was looked at: the names of nodes and what follows them are public, the factor of the second operand of a
    sum is not.
    """
    node = total.grad_fn
    if node is None or node.name() != "AddBackward0" or getattr(node, "_saved_alpha", 0) != 1:
        return []
    made = [(each, place) for each, place in node.next_functions if each is not None]
    leaf = any(each.name() == "torch::autograd::AccumulateGrad" for each, _ in made)
    return [] if leaf or len(made) != 2 else made


def notes_on(node: Node) -> dict[Any, Any]:
    """What people have written on a node of autograd's graph; it lives as long as that.

    This is public (``torch.autograd.graph.Node.metadata``), and may be written to, which its type denies.
    """
    return node.metadata  # pyright: ignore[reportReturnType]


def norms(tensors: Sequence[Tensor], order: float = 2.0) -> list[Tensor]:
    """The norm of each tensor, a scalar, all computed by few kernels on a GPU.

    ``torch.nn.utils.get_total_norm`` was looked at: it gives one norm of them all. A call of
    ``torch.linalg.vector_norm`` for each starts a kernel for each.
    """
    return list(torch._foreach_norm(list(tensors), order))


def has_hooks(module: nn.Module) -> bool:
    """Whether something hangs on the calls of ``module``: hooks of its forward or backward.

    ``torch.nn.Module`` was looked at: it adds hooks and removes them, and tells of none.
    """
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def hand_over_hooks(source: nn.Module, target: nn.Module) -> None:
    """Let hooks on the calls of ``source`` hang on those of ``target``; their handles still take them off.

    ``torch.nn.Module`` was looked at: it tells of no hook, so that none can be registered again elsewhere.
    """
    for name in _HOOKS:
        if hooks := vars(source)[name]:
            vars(target)[name] = hooks


def has_hooks_of_all() -> bool:
    """Whether something hangs on the calls of every module: global hooks of forward or backward.

    ``torch.nn.modules.module`` was looked at: it adds such hooks and removes them, and tells of none.
    """
    return bool(
        modules._global_forward_hooks
        or modules._global_forward_pre_hooks
        or modules._global_backward_hooks
        or modules._global_backward_pre_hooks
    )


@contextmanager
def unseen_by_modes() -> Iterator[None]:
    """A context in which no mode and no tensor subclass of the caller's sees the operations.

    ``torch.overrides`` and ``torch.utils.flop_counter`` were looked at: modes are entered and left in
    order, so that nobody but their owner can leave them in a public way.
    """
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield


class _Watching(TorchDispatchMode):
    def __init__(self, see: Callable[[Any], None]) -> None:
        super().__init__()
        self._see = see

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        self._see(func)
        return func(*args, **(kwargs or {}))


def watching(see: Callable[[Any], None]) -> AbstractContextManager[Any]:
    """A context that calls ``see(operation)`` with each overload of ``torch.ops`` before it runs.

    ``torch.overrides.TorchFunctionMode`` was tried: it is switched off while ``torch.autograd.grad`` runs.
    The mode that stands here was tried with torch 2.11 as well.
    """
    return _Watching(see)


def repeatable_backward() -> AbstractContextManager[Any]:
    """A context in which ``torch.compile`` makes functions whose backward may run more than once.

    ``torch.compile(options=…)`` was looked at: these are inductor's options, and this is none of them.
    torch's own message names the setting: "set torch._functorch.config.donated_buffer=False".
    """
    import torch._functorch.config as config

    return config.patch(donated_buffer=False)  # pyright: ignore[reportAttributeAccessIssue]


def tell_of_graphs(begin: Callable[[object], None], end: Callable[[object], None]) -> None:
    """From now on call ``begin`` before ``torch.compile`` compiles, and ``end`` after it.

    A backward is compiled when it first runs, and counts as well. Asked for twice, each is called once.
    ``torch.compiler`` was looked at: it tells neither, and its ``reset`` forgets whom to tell. The import is
    that of the compiler itself, which takes a second.
    """
    from torch._dynamo.callback import callback_handler

    if begin not in callback_handler.start_callbacks:
        callback_handler.register_start_callback(begin)
        callback_handler.register_end_callback(end)


def in_backward() -> bool:
    """Whether a backward is running in this thread, as when a checkpoint computes its part again.

    ``torch.utils.checkpoint`` was looked at: it tells its own functions alone.
    """
    return torch._C._current_graph_task_id() >= 0


def writes_into(tensor: Tensor) -> int:
    """How often something has been written into ``tensor``, as autograd counts it.

    ``torch.autograd.graph`` was looked at: it refuses a kept tensor that was written to, but only when the
    backward asks for it.
    """
    return tensor._version
