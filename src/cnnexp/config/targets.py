"""Parts of a config that name a class with ``_target_``: found, allowed, and its arguments checked."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from cnnexp.config.conversions import converted
from cnnexp.config.errors import ConfigError
from cnnexp.config.key_value import value_of
from cnnexp.environment import variable
from cnnexp.suggestions import did_you_mean

# What each part of the config may name. Extended by the command line or CNNEXP_ALLOW_TARGETS only:
# a config file that came from elsewhere must not be able to name what is run.
ALLOWED: Mapping[str, tuple[str, ...]] = {
    "data": ("cnnexp.data.", "cnnexp.attacks.canaries.load", "cnnexp.attacks.shadows.load"),
    "model": ("cnnexp.models.", "cnnexp.nn.", "torch.nn.", "torchvision.models."),
    "loss": ("cnnexp.nn.", "torch.nn."),
    "metrics": ("torchmetrics.",),
    "optimizer": ("torch.optim.", "cnnexp.optim.", "pytorch_optimizer.", "schedulefree."),
    "scheduler": ("torch.optim.lr_scheduler.", "cnnexp.optim."),
    "regularization": ("cnnexp.regularization.",),
    "logger": ("lightning.pytorch.loggers.", "cnnexp.training.trackers."),
    "callbacks": ("lightning.pytorch.callbacks.", "cnnexp.training.callbacks."),
    "trainer": ("lightning.Trainer", "lightning.pytorch.Trainer"),
    "trainer.profiler": ("lightning.pytorch.profilers.",),
}

_NAMED = ("callbacks", "logger", "metrics")  # hold several, each under a name

# Packages that come with an extra of ours, as in pip install "cnnexp[optimizers]".
EXTRAS = {"pytorch_optimizer": "optimizers", "schedulefree": "optimizers"}


def allowed_prefixes(overrides: Sequence[str] = ()) -> tuple[str, ...]:
    """Prefixes allowed beyond :data:`ALLOWED`: of ``CNNEXP_ALLOW_TARGETS`` and of the command line.

    Args:
        overrides: The command line's; ``allow_targets=[mylab.,other.]`` is read from it.
    """
    names: list[Any] = (variable("CNNEXP_ALLOW_TARGETS") or "").split(",")
    for override in overrides:
        if override.lstrip("+").startswith("allow_targets="):
            value = value_of(override)
            names += value if isinstance(value, list) else str(value).split(",")
    return tuple(name for each in names if (name := str(each).strip()))


def under_a_name(parent: str, leaf: str) -> str:
    """What to say where ``parent``, callbacks or logger, was given ``leaf`` directly; else ""."""
    if parent not in _NAMED:
        return ""
    return f"{parent} holds as many as you like, each under a name: +{parent}.<name>.{leaf}=…"


def locate(part: str, target: object, extra: Sequence[str] = ()) -> Callable[..., Any]:
    """The class or function that ``part``'s ``_target_`` names.

    Raises:
        ConfigError: It is not a name, not allowed, not there, or not callable.
    """
    if not isinstance(target, str):
        raise ConfigError(f"{part}._target_ must be the dotted name of a class, but got {target!r}")
    kind = part if part in ALLOWED else part.partition(".")[0]
    allowed = (*ALLOWED[kind], *extra)
    if not _within(target, allowed):
        raise ConfigError(
            f"{part}._target_={target} is not allowed (allowed: {', '.join(allowed)}). To use your "
            f"own code, add allow_targets=[{target.partition('.')[0]}.] to the command line, or set "
            f"CNNEXP_ALLOW_TARGETS"
        )
    module, _, name = target.rpartition(".")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        hint = f'; pip install "cnnexp[{EXTRAS[package]}]"' if package in EXTRAS else ""
        raise ConfigError(
            f"{part}._target_={target}: cannot import {module}: {error}{hint}"
        ) from error
    if not hasattr(found, name):
        hint = did_you_mean(name, [n for n in dir(found) if not n.startswith("_")])
        raise ConfigError(f"{part}._target_={target}: {module} has no '{name}'.{hint}")
    made = getattr(found, name)
    if not callable(made):
        raise ConfigError(f"{part}._target_={target} is neither a class nor a function")
    # A module can hold names of other modules; only what is defined in an allowed package counts.
    packages = {prefix.partition(".")[0] + "." for prefix in allowed}
    if not _within(f"{getattr(made, '__module__', '')}.", tuple(packages)):
        raise ConfigError(
            f"{part}._target_={target} is not allowed: it is {made.__module__}.{name}"
        )
    return made


def check_target(
    part: str,
    node: Mapping[str, Any],
    given: Sequence[str] = (),
    extra: Sequence[str] = (),
    beside: Sequence[str] = (),
) -> partial[Any]:
    """Check that ``part`` can be called with the arguments in ``node``.

    Args:
        part: Its place in the config, for messages.
        node: ``_target_`` and the arguments.
        given: Names of arguments that cnnexp adds where the target takes them.
        extra: Prefixes allowed beyond :data:`ALLOWED`.
        beside: Keys of this part that are no arguments: they may have been meant.

    Returns:
        The class or function as ``func``, and the arguments as it takes them (see :func:`converted`) as
        ``keywords``.

    Raises:
        ConfigError: As :func:`locate`; an argument is unknown, missing or of the wrong type.
    """
    parent, _, leaf = part.rpartition(".")
    if parent in _NAMED and leaf.startswith("_"):
        raise ConfigError(f"{part}={node}: {under_a_name(parent, leaf)}")
    if not isinstance(node, Mapping):
        raise ConfigError(f"{part}={node}: must be a class: {part}._target_=… and its arguments")
    target = node.get("_target_")
    function = locate(part, target, extra)
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {
        n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    hints, find = _type_hints(function), partial(locate, extra=extra)
    arguments = {
        key: converted(f"{part}.{key}", hints[key], value, find) if key in hints else value
        for key, value in node.items()
        if key != "_target_"
    }
    for key, value in arguments.items():
        if key not in named and not takes_any:
            hint = did_you_mean(key, [*named, *beside])
            raise ConfigError(f"{part}.{key}: {target} takes no argument '{key}'.{hint}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{part}.{key}={value}: must be finite")
        if key in hints and not _accepts(hints[key], value):
            wanted = _spell(hints[key])
            raise ConfigError(
                f"{part}.{key}={value}: must be {wanted}, but is {_spell(type(value))}"
            )
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in arguments and name not in given:
            raise ConfigError(f"{part}.{name} is missing: {target} needs it; add +{part}.{name}=…")
    return partial(function, **arguments)


def make(part: str, node: Mapping[str, Any], extra: Sequence[str] = (), **given: Any) -> Any:
    """Call ``part``'s target with the arguments in ``node`` and those of ``given`` that it takes.

    Raises:
        ConfigError: As :func:`check_target`, or the target refuses a value.
    """
    checked = check_target(part, node, tuple(given), extra)
    taken = inspect.signature(checked.func).parameters
    added = {name: value for name, value in given.items() if name in taken}
    try:
        return checked.func(**{**added, **checked.keywords})
    except Exception as error:  # whatever a user's class raises
        reason = " ".join(f"{error}".split()) or type(error).__name__
        raise ConfigError(f"{part}: {node['_target_']} refuses its arguments: {reason}") from error


def instance_of(part: str, made: Any, *kinds: type) -> Any:
    """``made``, what ``part``'s target has made, if it is one of ``kinds``.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(made, kinds):
        raise ConfigError(
            f"{part}._target_ must make a {kinds[0].__name__}, but makes {type(made)}"
        )
    return made


def _within(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == p or (p.endswith(".") and name.startswith(p)) for p in prefixes)


def _type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError, AttributeError):  # hints that only exist for type checkers
        return {}


_PLAIN = (
    *(float, int, bool, str, type(None), list, tuple, Sequence, dict, Mapping),
    *(typing.Literal, typing.Union, types.UnionType),
)


def _accepts(hint: Any, value: Any) -> bool:
    """Whether ``value`` fits ``hint``; hints beyond plain types are left to the target."""
    if callable(value) or isinstance(value, timedelta) or dataclasses.is_dataclass(value):
        return True  # made from YAML for this very hint
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_accepts(a, value) for a in arguments if _is_plain(a)) or not any(
            _is_plain(a) for a in arguments
        )
    if origin is typing.Literal:
        return value in arguments
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is type(None):
        return value is None
    if (origin or hint) in (list, tuple, Sequence):
        return isinstance(value, (list, tuple))
    if (origin or hint) in (dict, Mapping):
        return isinstance(value, Mapping)
    return True


def _is_plain(hint: Any) -> bool:
    return (typing.get_origin(hint) or hint) in _PLAIN


def _spell(hint: Any) -> str:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_spell(a) for a in arguments if _is_plain(a))
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    words |= {type(None): "null", list: "a list", tuple: "a list", Sequence: "a list"}
    words |= {dict: "a mapping", Mapping: "a mapping"}
    return words.get(typing.get_origin(hint) or hint, str(hint))
