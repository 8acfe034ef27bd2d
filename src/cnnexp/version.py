"""The version of cnnexp, which every layer may name without importing the package's public names."""

__version__ = "0.2.0"
