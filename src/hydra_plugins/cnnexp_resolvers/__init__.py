"""``${cnnexp.env:NAME,default}``: as ``${oc.env:…}``, but a variable that is set to nothing is unset.

Hydra imports this namespace package at each start, so that conf/ can be composed by whoever uses it, from
a notebook too: keep it light.
"""

from __future__ import annotations

from omegaconf import OmegaConf

from cnnexp.environment import variable

OmegaConf.register_new_resolver("cnnexp.env", variable, replace=True)
