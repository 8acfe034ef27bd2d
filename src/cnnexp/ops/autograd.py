"""The one factory of autograd Functions: an op's plain functions, wired by the names of their arguments.

    softplus = differentiable(forward, input=grad_input, tangent="diagonal")

``forward`` computes the op, ``grad_input`` the gradient of its argument ``input``. What a gradient
function needs, it names: ``grad_output``, arguments of ``forward``, its ``outputs``, and what
``shared`` works out for several of them. All that an op of torch does follows from these names:

- no gradient is computed that nobody needs, and no tensor is kept that no needed gradient names, nor
  one that can be computed again (:mod:`cnnexp.ops.recomputed`);
- results belong to the caller (:mod:`cnnexp.ops.ownership`), unless the op writes into its input;
- ``torch.func`` maps and differentiates it, since all is plain torch; so does a second backward;
- forward mode (``torch.func.jvp``, ``hessian``) takes a second Function: one with a ``jvp`` breaks
  the graph under ``torch.compile``, and keeps tensors alive that the backward does not need;
- a call outside of transforms takes a third one, which costs less time.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from cnnexp.ops.autocast import outside_autocast
from cnnexp.ops.forward_mode import in_forward_mode, transformed
from cnnexp.ops.ownership import owned, owned_gradients
from cnnexp.ops.precision import widened
from cnnexp.ops.recomputed import again, marked_as, to_keep, to_keep_outside
from cnnexp.ops.wiring import NEEDS, OF_TANGENT, Shared, Tangent, Wiring, computed, share, wire

Widens = Literal["nothing", "gradients", "all"]


def differentiable(
    forward: Callable[..., Any],
    *,
    tangent: Tangent = None,
    outputs: Sequence[str] = ("output",),
    shared: Shared | None = None,
    widens: Widens = "nothing",
    keeps: Mapping[str, Sequence[str]] | None = None,
    **gradients: Callable[..., Tensor],
) -> Callable[..., Any]:
    """``forward`` as a function that autograd differentiates by ``gradients``.

    Args:
        forward: The op. Its arguments are annotated; those annotated as a ``Tensor`` are tensors.
        tangent: How forward mode carries the tangents. ``"linear"``, of an op that is linear in each
            argument that has a gradient: ``forward`` itself, with one argument replaced by its
            tangent, summed over them; an argument that may be None is added to the output.
            ``"diagonal"``, of an op whose outputs depend on one element of each argument that has a
            gradient: the gradient functions, summed over these arguments, since a diagonal Jacobian is
            its own transpose. Else a function, which names what it
            needs, the tangent of ``input`` as ``input_tangent`` (None where it has none). None: not
            offered.
        outputs: Names of what ``forward`` returns, a tuple if they are several; only the first is
            differentiable.
        shared: What several gradients need, by its name (or names, if it is a tuple), in the order
            in which it is computed in the backward, once. It may stand for an argument of that name.
        widens: What is computed in float32 for tensors of half precision: ``"gradients"`` (and
            tangents), ``"all"`` for the forward as well, or ``"nothing"``.
        keeps: Of tensors that a shared function reads only for some gradients, the arguments whose
            gradients these are; else it is handed None.
        **gradients: By arguments of ``forward``, the functions that compute their gradients.

    Returns:
        A function of the arguments of ``forward``, by position.

    Raises:
        TypeError: A function names something that is not there, or an argument is not annotated.
    """
    wiring = wire(forward, outputs, shared or {}, gradients, tangent, keeps)
    function = _function(wiring, widens)
    plain = _plain(function)
    with_tangents = function if tangent is None else _with_tangents(function, wiring, widens)

    def apply(*arguments: Any) -> Any:
        if not transformed():
            return plain.apply(*arguments)
        return (with_tangents if in_forward_mode() else function).apply(*arguments)

    return apply


def in_place(
    write: Callable[..., Tensor],
    apart: Callable[..., Tensor],
    **gradients: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """``write``, which leaves the output in its first argument, as autograd differentiates it.

    Args:
        write: (input, …) → input, changed.
        apart: The same op as :func:`differentiable` makes it, for transforms, which know no Function
            that writes into its input.
        **gradients: As of :func:`differentiable`; the input is gone, the output is not.

    Returns:
        A function of the arguments of ``write``, by position.
    """
    function = _plain(
        _function(wire(write, ["output"], {}, gradients, None), "nothing", writes=True)
    )

    def apply(input: Tensor, *arguments: Any) -> Tensor:
        if transformed():
            return input.copy_(apart(input, *arguments))
        if not (torch.is_grad_enabled() and input.requires_grad):
            return write(input, *arguments)
        return function.apply(input, *arguments)

    return apply


def _function(wiring: Wiring, widens: Widens, writes: bool = False) -> type[Any]:
    """The Function of ``wiring`` with a backward but no forward mode."""
    compute, gradients, shared = wiring.forward, wiring.gradients, wiring.shared
    names = [name for name, _, _ in wiring.kept]
    count, several = len(wiring.arguments), len(wiring.outputs) > 1
    widens_gradients = widens != "nothing"

    def forward(*arguments: Any) -> Any:
        if widens == "all":
            with outside_autocast(arguments[0]):
                output = compute(*[_wide(a) for a in arguments]).to(arguments[0].dtype)
        else:
            output = compute(*arguments)
        if writes:
            return output
        return tuple([owned(each) for each in output]) if several else _owned(output)

    # by how many arguments it says it has, torch.compile tells whether ``ctx`` is among them
    forward.__signature__ = inspect.signature(compute)  # pyright: ignore[reportFunctionMemberAccess]

    setup_context, keep = _keeping(wiring, widens_gradients, writes)

    def backward(ctx: Any, grad_output: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        if not widens_gradients:
            return made(ctx, grad_output)
        with outside_autocast(grad_output):
            return made(ctx, grad_output)

    def made(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad
        # read once: under torch.utils.checkpoint each reading would compute the forward again
        saved = dict(zip(names, again(ctx.plan, ctx.saved_tensors), strict=True))
        values = {"grad_output": grad_output, NEEDS: needs, **saved, **ctx.options}
        if widens_gradients:
            values = {name: _wide(value) for name, value in values.items()}
        if shared:
            share(shared, values, [each for each in range(count) if needs[each]])
        grads: list[Tensor | None] = [None] * count
        for argument, gradient, reads in gradients:
            if needs[argument]:
                grad = computed(gradient, reads, values)
                grads[argument] = grad.to(ctx.dtypes[argument]) if widens_gradients else grad
        return owned_gradients(grads)

    return _class(
        _title(compute),
        torch.autograd.Function,
        generate_vmap_rule=not writes,  # everything is pure torch
        forward=staticmethod(forward),
        setup_context=staticmethod(setup_context),
        keep=staticmethod(keep),
        backward=staticmethod(backward),
    )


def _keeping(
    wiring: Wiring, widens_gradients: bool, writes: bool
) -> tuple[Callable[..., None], Callable[..., None]]:
    """What keeps for the backward of ``wiring`` what it needs: anywhere, and outside of transforms."""
    kept, several = [each[1:] for each in wiring.kept], len(wiring.outputs) > 1
    names, options = [n for n, _ in wiring.options], [place for _, place in wiring.options]
    known: dict[tuple[bool, ...], list[int | None]] = {}  # places of what is kept, by who needs it

    def marked(ctx: Any, inputs: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
        """All that could be kept, once what autograd is to know of the outputs is said."""
        if writes:
            ctx.mark_dirty(inputs[0])
        if several:
            ctx.mark_non_differentiable(*output[1:])
        stored = (*inputs, *output) if several else (*inputs, output)
        ctx.options = dict(zip(names, [stored[place] for place in options], strict=True))
        ctx.dtypes = [_dtype(each) for each in inputs] if widens_gradients else ()
        return stored

    def anywhere(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        stored, needs = marked(ctx, inputs, output), ctx.needs_input_grad
        ctx.plan, tensors = to_keep(
            [stored[p] if any(needs[u] for u in users) else None for p, users in kept]
        )
        ctx.save_for_backward(*tensors)

    def outside(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        stored, needs = marked(ctx, inputs, output), ctx.needs_input_grad
        places = known.get(needs)
        if places is None:
            used = [(p, any(needs[u] for u in users)) for p, users in kept]
            places = known[needs] = [p if one else None for p, one in used]
        ctx.plan, tensors = to_keep_outside([None if p is None else stored[p] for p in places])
        ctx.save_for_backward(*tensors)

    return anywhere, outside


def _owned(output: Tensor) -> Tensor:
    """``output`` as :func:`owned`, with its recipe if it has one."""
    return marked_as(owned(output), output)


def _plain(function: type[Any]) -> type[Any]:
    """``function`` for calls outside of transforms, which need no ``setup_context`` apart.

    Where there is one, torch binds the arguments to the signature of ``forward`` at each call, which takes
    four times as long as the call itself.
    """

    def forward(ctx: Any, *arguments: Any) -> Any:
        output = function.forward(*arguments)
        function.keep(ctx, arguments, output)
        # zeros for the gradients of the others would cost as much as they
        if isinstance(output, tuple):
            ctx.set_materialize_grads(False)
        return output

    def backward(ctx: Any, grad_output: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad_output is None:
            return (None,) * len(ctx.needs_input_grad)
        return function.backward(ctx, grad_output)

    return _class(
        function.__name__,
        torch.autograd.Function,
        forward=staticmethod(forward),
        backward=staticmethod(backward),
    )


def _with_tangents(function: type[Any], wiring: Wiring, widens: Widens) -> type[Any]:
    """A subclass of ``function`` with forward mode, its ``jvp``."""
    names, places = [name for name, _, _ in wiring.kept], [place for _, place, _ in wiring.kept]
    moving, others = wiring.gradients[0][0], (None,) * (len(wiring.outputs) - 1)
    assert wiring.tangent is not None  # differentiable
    (carry, reads), shared = wiring.tangent, wiring.shared
    tangent_names = [f"{name}_tangent" for name in wiring.arguments]

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        function.setup_context(ctx, inputs, output)
        stored = (*inputs, *output) if others else (*inputs, output)
        # backward and jvp read the same list
        ctx.save_for_forward(*[stored[place] for place in places])

    def jvp(ctx: Any, *tangents: Any) -> Any:
        # a gradient function that carries tangents takes them for ``grad_output``
        values = {"grad_output": tangents[moving], **ctx.options}
        values |= zip(names, ctx.saved_tensors, strict=True)
        values |= zip(tangent_names, tangents, strict=True)
        if widens != "nothing":
            values = {name: _wide(value) for name, value in values.items()}
        if widens == "nothing":
            share(shared, values, [OF_TANGENT])
            result = computed(carry, reads, values)
        else:
            with outside_autocast(values["grad_output"]):
                share(shared, values, [OF_TANGENT])
                result = computed(carry, reads, values).to(ctx.dtypes[0])
        return (result, *others) if others else result

    return _class(
        f"{function.__name__}_with_tangents",
        function,
        setup_context=staticmethod(setup_context),
        jvp=staticmethod(jvp),
    )


def _class(name: str, base: type[Any], **members: Any) -> type[Any]:
    return types.new_class(name, (base,), exec_body=lambda namespace: namespace.update(members))


def _title(forward: Callable[..., Any]) -> str:
    """What autograd's graph and messages call the op: ``cnnexp.ops.relu`` gives ``reluBackward``."""
    return forward.__module__.removeprefix("cnnexp.ops.").replace(".", "_")


def _wide(value: Any) -> Any:
    return widened(value) if isinstance(value, Tensor) else value


def _dtype(value: Any) -> torch.dtype | None:
    return value.dtype if isinstance(value, Tensor) else None
