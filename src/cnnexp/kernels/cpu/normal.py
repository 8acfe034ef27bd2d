"""CPU kernels that make standard normal numbers from random words, and add them to a gradient.

Box and Muller's formula needs log, √, sin and cos; of these only √ is an instruction. The others are the
polynomials of Sun's fdlibm (1993; e_log.c, k_sin.c, k_cos.c), whose errors are below one unit in the last
place, written without a branch so that the compiler makes vectors of them. No product is fused with a sum, so
that all processors give the same bits.

    u = (|w| + ½) / 2⁶³                   from a signed word w of 64 bits, in (0, 1]
    angle = x + q·π/2, |x| ≤ π/4          from a signed word of 32 bits: 2 for q, 30 for x

Numbers are computed one by one, so that neither the length of vectors nor the number of threads matters.
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["add_on_grid", "box_muller"]

_EXACT = {**COMPILE, "fastmath": False}  # a·b + c is rounded twice everywhere
_PIECE = 1024  # pairs of words; what stands between them stays in the cache
_ADDED = 16384  # numbers that one thread adds

_HALF_ROOT = np.int64(0x3FE6A09E667F3BCD)  # the bits of √½
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_L1, _L2, _L3, _L4 = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
)
_L5, _L6, _L7 = 1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01
_S1, _S2, _S3 = -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04
_S4, _S5, _S6 = 2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10
_C1, _C2, _C3 = 4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05
_C4, _C5, _C6 = -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11
_WHOLE = 2.0**52  # from here on numbers are whole
_TO_UNIT, _TO_EIGHTH = 0.5**63, math.pi * 0.5**33


def _same_bits(given: Any, made: Any, kind: ir.Type) -> Any:
    @intrinsic
    def same_bits(typing_context, value):
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], kind)

        return made(given), codegen

    return same_bits


_bits_of = _same_bits(types.float64, types.int64, ir.IntType(64))
_number_of = _same_bits(types.int64, types.float64, ir.DoubleType())


@njit(**_EXACT)
def _log(u):
    """The natural logarithm of u, a normal number above 0."""
    bits = _bits_of(u)
    exponent = (bits - _HALF_ROOT) >> np.int64(52)
    f = _number_of(bits - (exponent << np.int64(52))) - 1.0  # in [√½, √2) − 1
    k, s = float(exponent), f / (2.0 + f)
    z, half = s * s, 0.5 * f * f
    w = z * z
    even = z * (_L1 + w * (_L3 + w * (_L5 + w * _L7)))
    odd = w * (_L2 + w * (_L4 + w * _L6))
    return k * _LN2_HIGH - ((half - (s * (half + (even + odd)) + k * _LN2_LOW)) - f)


@njit(**_EXACT)
def _sine_and_cosine(x):
    """Both for |x| ≤ π/4."""
    z = x * x
    sine = x + x * z * (_S1 + z * (_S2 + z * (_S3 + z * (_S4 + z * (_S5 + z * _S6)))))
    rest = z * z * (_C1 + z * (_C2 + z * (_C3 + z * (_C4 + z * (_C5 + z * _C6)))))
    half = 0.5 * z
    one = 1.0 - half
    return sine, one + ((1.0 - one) - half + rest)


@njit(parallel=True, **_EXACT)
def box_muller(radius_words, angle_words, made):
    """Fill ``made`` (2, pairs) with standard normal numbers, each the sum of ``terms``.

    ``radius_words`` (terms, pairs) int64, ``angle_words`` (terms, pairs) int32: a pair of words gives one
    term to each row of ``made``.
    """
    terms, pairs = radius_words.shape
    scale = -2.0 / terms
    for piece in prange((pairs + _PIECE - 1) // _PIECE):
        begin, end = piece * _PIECE, min((piece + 1) * _PIECE, pairs)
        first, second = made[0, begin:end], made[1, begin:end]
        first[:] = 0
        second[:] = 0
        for term in range(terms):
            radii, angles = radius_words[term, begin:end], angle_words[term, begin:end]
            for i in range(end - begin):
                radius = math.sqrt(scale * _log((abs(float(radii[i])) + 0.5) * _TO_UNIT))
                low = np.int32(angles[i] << np.int32(2))  # 30 bits, as a signed number
                sine, cosine = _sine_and_cosine(float(low) * _TO_EIGHTH)
                turned, negative = angles[i] < 0, (angles[i] & np.int32(0x40000000)) != 0
                one, other = (-sine, cosine) if turned else (cosine, sine)
                radius = -radius if negative else radius
                first[i] += radius * one
                second[i] += radius * other


@njit(parallel=True, **_EXACT)
def add_on_grid(gradient, noise, std, grid):
    """gradient[i] + std·noise[i], in float64, rounded to a multiple of ``grid``, a power of two."""
    for piece in prange((gradient.size + _ADDED - 1) // _ADDED):
        part = slice(piece * _ADDED, (piece + 1) * _ADDED)
        _add_on_grid(gradient[part], noise[part], std, 1 / grid, grid)


@njit(**_EXACT)
def _add_on_grid(gradient, noise, std, cells, grid):
    for i in range(gradient.size):
        value = (noise[i] * std + gradient[i]) * cells
        whole = _WHOLE if value >= 0 else -_WHOLE
        rounded = (value + whole) - whole  # halves to even; no vector can call rint()
        gradient[i] = (rounded if abs(value) < _WHOLE else value) * grid
