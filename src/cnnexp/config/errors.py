"""Misuse that lies in a config: what a user can mend by changing the command or the config."""

from __future__ import annotations

from cnnexp.commandline import Misuse
from cnnexp.suggestions import did_you_mean

__all__ = ["ConfigError", "did_you_mean"]


class ConfigError(Misuse):
    """A config that cannot work; the message names the value, what is allowed and the next step."""
