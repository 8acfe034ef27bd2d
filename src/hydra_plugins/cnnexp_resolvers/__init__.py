"""``${cnnexp.env:NAME,default}``: as ``${oc.env:…}``, but an empty variable counts as unset.

Hydra imports this namespace package at each start, so that anybody can compose conf/, from a notebook,
too: keep it light.
"""

from __future__ import annotations

from omegaconf import OmegaConf

from cnnexp.environment import variable

OmegaConf.register_new_resolver("cnnexp.env", variable, replace=True)
