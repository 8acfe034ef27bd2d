"""Hydra sweepers that call cnnexp.sweeps."""
