"""What the LLVM that llvmlite brings can do; without importing it."""

from __future__ import annotations

from importlib.metadata import version

__all__ = ["LLVM_PRESSES"]

# whether it presses vectors together; that of llvmlite 0.44 ends the process
LLVM_PRESSES = tuple(int(part) for part in version("llvmlite").split(".")[:2]) >= (0, 45)
