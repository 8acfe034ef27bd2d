"""The fast ways of the fused block: vectors and Winograd on CPU, Triton on GPU, as torch operators."""
