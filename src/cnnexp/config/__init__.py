"""Configs: composed, checked, and turned into objects. Imports neither torch nor lightning."""

from cnnexp.config.compose import Composer, Jobs, conf_dir, plain_config
from cnnexp.config.errors import ConfigError

__all__ = ["Composer", "ConfigError", "Jobs", "conf_dir", "plain_config"]
