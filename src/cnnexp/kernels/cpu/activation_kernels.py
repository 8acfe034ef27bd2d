"""Activations inside numba kernels: z = act(u) and act'(u), which vectors compute.

A kind of activation and two bounds say which it is:

    CLAMP       z = min(max(u, low), high)      a bound that is NaN is none: ReLU, ReLU6, or u itself
    HARDSWISH   z = u·min(max(u + 3, 0), 6)/6
    SILU        z = u·σ(u)

A NaN stays one. At a kink the derivative is 0, as torch has it.
"""
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from numba import njit

from cnnexp.kernels.cpu.precision import floor, is_double, of_kind, power_of_two
from cnnexp.kernels.cpu.vector import COMPILE

CLAMP, HARDSWISH, SILU = 0, 1, 2


@njit(**COMPILE)
def clamped(u, low, high):
    """The value between the bounds."""
    u = low if u <= low else u
    return high if u >= high else u


@njit(**COMPILE)
def passed(g, u, low, high):
    """The gradient ``g`` of a clamped ``u``: 0 at a bound and beyond."""
    return of_kind(0.0, g) if u <= low or u >= high else g


@njit(**COMPILE)
def shifted(d, along, constant):
    """d·along + constant, which is 0 where ``along`` is, whatever d."""
    return constant if along == of_kind(0.0, d) else d * along + constant


@njit(**COMPILE)
def hardswish(u):
    """The value of hardswish."""
    zero, three, six = of_kind(0.0, u), of_kind(3.0, u), of_kind(6.0, u)
    return u * clamped(u + three, zero, six) / six


@njit(**COMPILE)
def hardswish_slope(u):
    """The derivative of hardswish."""
    zero, three, one = of_kind(0.0, u), of_kind(3.0, u), of_kind(1.0, u)
    inside = u / three + of_kind(0.5, u)
    inside = inside if u < three else one
    return zero if u <= -three else inside


@njit(**COMPILE)
def logistic(u):
    """σ(u) = 1/(1 + exp(−u)), by eˣ = 2ⁿ·eʳ and the series of eʳ, |r| ≤ ln 2/2."""
    one = of_kind(1.0, u)
    x = clamped(-u, of_kind(-87.0, u), of_kind(87.0, u))
    n = floor(x * of_kind(1.4426950408889634, u) + of_kind(0.5, u))
    r = (x - n * of_kind(0.693145751953125, u)) - n * of_kind(1.4286068203094172e-06, u)
    s = one
    if is_double(u):  # whose digits need twice as many terms
        s = one + r * of_kind(1 / 14, u)
        s = one + r * of_kind(1 / 13, u) * s
        s = one + r * of_kind(1 / 12, u) * s
        s = one + r * of_kind(1 / 11, u) * s
        s = one + r * of_kind(1 / 10, u) * s
        s = one + r * of_kind(1 / 9, u) * s
    s = one + r * of_kind(1 / 8, u) * s
    s = one + r * of_kind(1 / 7, u) * s
    s = one + r * of_kind(1 / 6, u) * s
    s = one + r * of_kind(1 / 5, u) * s
    s = one + r * of_kind(1 / 4, u) * s
    s = one + r * of_kind(1 / 3, u) * s
    s = one + r * of_kind(1 / 2, u) * s
    s = one + r * s
    return one / (one + s * power_of_two(n))


@njit(**COMPILE)
def silu_slope(u):
    """The derivative of SiLU."""
    sigma, one = logistic(u), of_kind(1.0, u)
    return sigma * (one + u * (one - sigma))


@njit(**COMPILE)
def tanh(u):
    """The tanh of u: below 0.625 by a polynomial or a quotient of two, above as 1 − 2t/(1 + t), t = e⁻²|ᵘ|.

    The error is at most 2 units in the last place. Coefficients of Moshier, "Methods and Programs for
    Mathematical Functions" (1989), the Cephes library.
    """
    one, zero = of_kind(1.0, u), of_kind(0.0, u)
    size, z = (-u if u < zero else u), u * u
    x = -(size + size)
    x = of_kind(-80.0, u) if x < of_kind(-80.0, u) else x
    n = floor(x * of_kind(1.4426950408889634, u) + of_kind(0.5, u))
    r = (x - n * of_kind(0.693145751953125, u)) - n * of_kind(1.4286068203094172e-06, u)
    s = of_kind(1 / 5040, u)
    if is_double(u):  # whose digits need twice as many terms
        s = of_kind(1 / 87178291200, u)
        s = of_kind(1 / 6227020800, u) + r * s
        s = of_kind(1 / 479001600, u) + r * s
        s = of_kind(1 / 39916800, u) + r * s
        s = of_kind(1 / 3628800, u) + r * s
        s = of_kind(1 / 362880, u) + r * s
        s = of_kind(1 / 40320, u) + r * s
        s = of_kind(1 / 5040, u) + r * s
    s = of_kind(1 / 720, u) + r * s
    s = of_kind(1 / 120, u) + r * s
    s = of_kind(1 / 24, u) + r * s
    s = of_kind(1 / 6, u) + r * s
    s = of_kind(1 / 2, u) + r * s
    t = (one + (r + (r * r) * s)) * power_of_two(n)
    near = size < of_kind(0.625, u)
    if is_double(u):
        p = of_kind(-9.64399179425052238628e-1, u)
        p = of_kind(-9.92877231001918586564e1, u) + z * p
        p = of_kind(-1.61468768441708447952e3, u) + z * p
        q = of_kind(1.12811678491632931402e2, u) + z
        q = of_kind(2.23548839060100448583e3, u) + z * q
        q = of_kind(4.84406305325125486048e3, u) + z * q
        quotient = (z * p if near else t + t) / (q if near else one + t)
        below = quotient
    else:
        p = of_kind(-5.70498872745e-3, u)
        p = of_kind(2.06390887954e-2, u) + z * p
        p = of_kind(-5.37397155531e-2, u) + z * p
        p = of_kind(1.33314422036e-1, u) + z * p
        p = of_kind(-3.33332819422e-1, u) + z * p
        quotient, below = (t + t) / (one + t), z * p
    far = one - quotient
    return u + u * below if near else (-far if u < zero else far)


@njit(**COMPILE)
def tanh_to_round(u):
    """The tanh of a float32 u that is rounded to bfloat16 afterwards: u·P(u²)/Q(u²) up to |u| = 4.97.

    The relative error is at most 2.2·10⁻⁶, and 10⁻⁴ beyond, where all round to ±1; in a fifth of the time of
    :func:`tanh`. The coefficients are those of the least greatest error, by Lawson's iteration on 4,000
    Chebyshev points.
    """
    u = clamped(u, of_kind(-4.97, u), of_kind(4.97, u))
    z = u * u
    p = of_kind(0.11666805575815173, u) + z * of_kind(0.0016407482565937498, u)
    p = of_kind(0.9999980409247184, u) + z * p
    q = of_kind(0.018323703237937743, u) + z * of_kind(6.471624561542751e-05, u)
    q = of_kind(0.4499857681854265, u) + z * q
    q = of_kind(1.0, u) + z * q
    return u * p / q
