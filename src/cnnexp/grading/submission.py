"""A student's work: found in a module, called with a case, its answers in one form.

Three kinds are known: ``forward`` and ``backward`` as functions (or as methods of a class that is no
torch Module), an ``autograd.Function``, and an ``nn.Module``, whose backward is what autograd makes of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnnexp.grading.answers import Answer, as_array
from cnnexp.grading.binding import (
    Read,
    asked,
    assign,
    call,
    meant,
    parameters_of,
    pool_asked,
    pool_settings,
    settings_as_dict,
)
from cnnexp.grading.cases import Array, Case
from cnnexp.grading.contract import CONTRACTS, RUNNING, Contract, plain
from cnnexp.suggestions import nearest


class NothingToGradeError(Exception):
    """The module has no forward and backward; the message says what was found, and what was looked for."""


@dataclass
class Submission:
    """How a student's work is called.

    Attributes:
        contract: That of the op.
        kind: "functions", "class", "Function" or "Module".
        forward: The forward function, or the class.
        backward: The backward function; None where torch calls it.
        tensors: "numpy" or "torch".
        pairs: Whether settings are given as (rows, columns).
        transposed: Whether w of the linear layer is (C_in, C_out).
        flat: Whether batch normalisation is of (N, C).
        parameters: The settings as a dict, for a forward that wants one.
        pool_parameters: Those of a block's pool.
    """

    contract: Contract
    kind: str
    forward: Callable[..., Any]
    backward: Callable[..., Any] | None = None
    tensors: str = "numpy"
    pairs: bool = False
    transposed: bool = False
    flat: bool = False
    parameters: Read = field(default_factory=Read)
    pool_parameters: Read = field(default_factory=Read)

    def takes(self) -> frozenset[str]:
        """The settings of the op that the student's forward takes."""
        settings = tuple(self.contract.settings)
        if self.kind == "Function":
            from cnnexp.grading.torch_calls import roles_of_function

            return frozenset(roles_of_function(self.forward, self.contract).values()) & frozenset(
                settings
            )
        if self.kind in ("class", "Module"):
            among = [*self.contract.arguments, *_SIZES]
            roles = assign(self.forward, among, ())
            return frozenset(roles.values()) & frozenset(settings)
        roles = self._roles_forward()
        if "settings" in roles.values():
            named = asked(self.parameters.keys_read) | pool_asked(self.pool_parameters.keys_read)
            return frozenset(named) & frozenset(settings)
        if _takes_anything(self.forward):
            return frozenset(settings) - {"dilation", "groups"}
        return frozenset(roles.values()) & frozenset(settings)

    def takes_grad_output(self) -> bool:
        """Whether the backward is given ∂L/∂y; where it is not, ∂L/∂y is 1."""
        if self.kind == "class":
            return len(parameters_of(self.forward.backward)) > 1  # pyright: ignore[reportFunctionMemberAccess]
        if self.backward is None:
            return True
        return "grad_output" in self._roles_backward(["cache"]).values()

    def _roles_forward(self) -> dict[str, str]:
        loose = self.contract.arguments
        return assign(self.forward, [*loose, *self._dicts(), *RUNNING], loose)

    def _dicts(self) -> tuple[str, ...]:
        """The settings as dicts: a block has one for its pool, the others have one."""
        block = self.contract.op == "conv_relu_pool"
        return ("pool_settings", "settings") if block else ("settings",)

    def _roles_backward(self, kept: Sequence[str]) -> dict[str, str]:
        """What each parameter of the backward gets; ``kept`` is what forward returned beside y."""
        assert self.backward is not None
        known = ["grad_output", *self.contract.arguments, "cache", *self._dicts()]
        if self.contract.op != "cross_entropy":  # whose output is a number, and probs what is kept
            known += ["output", "x_shape"]
        loose = [*kept, *self.contract.arguments]
        if self.contract.op != "cross_entropy":  # whose students often leave it out
            loose.insert(0, "grad_output")
        return assign(self.backward, [*known, *kept, *RUNNING], loose)

    def run(self, case: Case) -> Answer:
        """Forward and backward of a case."""
        values = self._values(case)
        if self.kind in ("Function", "Module"):
            from cnnexp.grading.torch_calls import run_function, run_module

            if self.kind == "Function":
                answer = run_function(self.forward, self.contract, values)
            else:
                answer = run_module(self.forward, self.contract, values, case)
            answer.gradients = self.restored(answer.gradients, case)
            return answer
        runner = self._run_class if self.kind == "class" else self._run_functions
        return runner(values, case)

    def _values(self, case: Case) -> dict[str, Any]:
        arrays = {name: value.copy() for name, value in case.tensors.items()}
        g = case.grad_output.copy()
        if self.transposed:
            arrays["w"] = np.ascontiguousarray(arrays["w"].T)
        if self.flat:
            arrays["x"], g = _flat(arrays["x"]), _flat(g)
        values: dict[str, Any] = {**arrays, "grad_output": g}
        if g.ndim == 0:
            values["grad_output"] = float(g)
        if self.tensors == "torch":
            import torch

            values = {name: torch.as_tensor(value) for name, value in values.items()}
            if case.op == "cross_entropy":
                values["grad_output"] = torch.tensor(float(g), dtype=torch.float64)
        settings = dict(case.settings)
        self.parameters.update(settings_as_dict(settings))
        self.pool_parameters.update(pool_settings(settings))
        values |= {"settings": self.parameters, "pool_settings": self.pool_parameters}
        if self.pairs:
            settings = {n: (v, v) if n in _PAIRED else v for n, v in settings.items()}
        channels = case.tensors["x"].shape[1] if case.op == "batch_norm" else 1
        running = {"running_mean": np.zeros(channels), "running_var": np.ones(channels)}
        values |= {"training": True, "momentum": 0.1, **settings}
        if self.tensors == "torch":
            import torch

            return values | {name: torch.as_tensor(value) for name, value in running.items()}
        return values | running

    def _run_functions(self, values: dict[str, Any], case: Case) -> Answer:
        assert self.backward is not None
        before = _copies(values)
        given = call(self.forward, self._roles_forward(), values)
        output, rest = _apart(given)
        answer = Answer(self._image(as_array(output), case))
        answer.notes += _changed(before, values, "forward")
        before = _copies(values)
        kept = {f"kept {number}": value for number, value in enumerate(rest)}
        values |= kept
        values |= {"output": output, "x_shape": next(iter(case.tensors.values())).shape}
        if rest:
            values["cache"] = rest[0] if len(rest) == 1 else tuple(rest)
        returned = call(self.backward, self._roles_backward(list(kept)), values)
        answer.gradients = self._gradients(returned, case)
        answer.notes += _changed(before, values, "backward")
        return answer

    def _run_class(self, values: dict[str, Any], case: Case) -> Answer:
        from cnnexp.grading.objects import run_object

        answer, returned = run_object(self.forward, self.contract, values, case)
        answer.gradients = self._gradients(returned, case)
        return answer

    def _gradients(self, returned: Any, case: Case) -> dict[str, Array | None]:
        names = self.contract.gradients
        if isinstance(returned, Mapping):
            by_name = {_without_d(str(key)): value for key, value in returned.items()}
            found = {meant(key, names): value for key, value in by_name.items()}
            values = [found.get(name) for name in names]
        elif isinstance(returned, (tuple, list)):
            values = [*returned, *[None] * len(names)][: len(names)]
        else:
            values = [returned, *[None] * (len(names) - 1)]
        made = {name: as_array(value) for name, value in zip(names, values, strict=True)}
        return self.restored(made, case)

    def restored(self, made: dict[str, Array | None], case: Case) -> dict[str, Array | None]:
        """The gradients as the contract has them, where the student has another layout."""
        dw, dx = made.get("w"), made.get("x")
        if self.transposed and dw is not None and dw.ndim == 2:
            made["w"] = dw.T
        if self.flat:
            made["x"] = self._image(dx, case)
        return made

    def _image(self, rows: Array | None, case: Case) -> Array | None:
        """(N·H·W, C) as (N, C, H, W), where the student has rows of channels."""
        n, c, *rest = next(iter(case.tensors.values())).shape if self.flat else (0, 0)
        if not self.flat or rows is None or rows.shape != (n * int(np.prod(rest)), c):
            return rows
        return np.moveaxis(rows.reshape(n, *rest, c), -1, 1)


_PAIRED = ("stride", "padding", "dilation", "kernel_size", "pool_kernel", "pool_stride")
_SIZES = ("in_channels", "out_channels", "in_features", "out_features", "num_features")


def _flat(x: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1).reshape(-1, x.shape[1]))


def _takes_anything(function: Callable[..., Any]) -> bool:
    kinds = [p.kind for p in inspect.signature(function).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def _apart(given: Any) -> tuple[Any, Sequence[Any]]:
    """Output and what else forward has returned."""
    if isinstance(given, (tuple, list)) and given:
        return given[0], given[1:]
    return given, ()


def _copies(values: Mapping[str, Any]) -> dict[str, Array]:
    return {
        name: np.array(as_array(value))
        for name, value in values.items()
        if hasattr(value, "shape") and value.shape and not name.startswith("running")
    }


def _changed(before: Mapping[str, Array], values: Mapping[str, Any], where: str) -> list[str]:
    return [
        f"{where} changes {name} in place"
        for name, old in before.items()
        if not np.array_equal(old, np.asarray(as_array(values[name])), equal_nan=True)
    ]


def _without_d(key: str) -> str:
    word = plain(key)
    for prefix in ("gradient", "gradoutput", "grad", "dl", "d"):
        if word.startswith(prefix) and word[len(prefix) :]:
            return word[len(prefix) :]
    for suffix in ("gradient", "grad"):
        if word.endswith(suffix) and word != suffix:
            return word[: -len(suffix)]
    return word


def find(op: str, names: Mapping[str, Any], uses_torch: bool) -> Submission:
    """The submission in a module's ``names``.

    Raises:
        NothingToGradeError: There is none.
    """
    contract = CONTRACTS[op]
    functions = {n: v for n, v in names.items() if inspect.isfunction(v) and not n.startswith("__")}
    forward, backward = (_one(functions, word, op) for word in ("forward", "backward"))
    kind = "torch" if uses_torch else "numpy"
    if forward and backward:
        return Submission(contract, "functions", forward, backward, kind)
    classes = {n: v for n, v in names.items() if inspect.isclass(v)}
    found = _of_class(contract, classes, kind)
    if found is not None:
        return found
    missing = "backward" if forward else "forward"
    close = nearest(missing, functions)
    hint = f" Did you mean '{missing}' by '{close}'?" if close else ""
    there = ", ".join([*functions, *classes]) or "no function and no class"
    raise NothingToGradeError(
        f"there is no {missing}(…) and no autograd Function or Module, but {there}.{hint} "
        f"`python -m cnnexp.grade --template {op}` writes a file to fill in"
    )


def _one(
    functions: Mapping[str, Callable[..., Any]], word: str, op: str
) -> Callable[..., Any] | None:
    """The function called ``word``, or the one whose name has it, nearest to the op's name."""
    if word in functions:
        return functions[word]
    short = "bwd" if word == "backward" else "fwd"
    having = [n for n in functions if word in n.lower() or short in n.lower()]
    if len(having) > 1:
        having = [nearest(f"{op}_{word}", having, 0.0) or having[0]]
    return functions[having[0]] if having else None


def _of_class(contract: Contract, classes: Mapping[str, Any], kind: str) -> Submission | None:
    from cnnexp.grading.objects import is_function, is_module

    ways: Sequence[tuple[str, Callable[[Any], bool]]] = (
        ("Function", is_function),
        ("Module", is_module),
        ("class", lambda c: hasattr(c, "forward") and hasattr(c, "backward")),
    )
    for name, belongs in ways:
        fitting = [n for n, value in classes.items() if belongs(value)]
        if fitting:
            chosen = classes[nearest(contract.op.replace("_", ""), fitting, 0.0) or fitting[0]]
            return Submission(contract, name, chosen, tensors=kind if name == "class" else "torch")
    return None
