"""Misuse that lies in a config: what a user can mend by changing the command or the config."""

from __future__ import annotations

from cnnexp.commandline import Misuse


class ConfigError(Misuse):
    """A config that cannot work; the message names the value, what is allowed and the next step."""
