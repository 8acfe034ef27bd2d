"""Hydra launchers that call cnnexp.sweeps."""
