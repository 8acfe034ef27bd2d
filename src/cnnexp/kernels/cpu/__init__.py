"""The CPU kernels: numba, and vectors written in LLVM's language."""
