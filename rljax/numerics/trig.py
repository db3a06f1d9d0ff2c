"""Sine and cosine in one go, in arithmetic that XLA fuses and vectorizes."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

_PI = Fraction(31415926535897932384626433832795028841971693993751, 10**49)


def _parts(count: int = 5, bits: int = 11) -> list[np.float32]:
    """Pi / 2 as a sum of float32 of so many bits, which a small integer scales exactly."""
    rest, parts = _PI / 2, []
    for _ in range(count - 1):
        unit = Fraction(2) ** (math.floor(math.log2(rest)) - bits + 1)
        parts.append(np.float32(float(rest // unit * unit)))
        rest %= unit
    return [*parts, np.float32(float(rest))]


_QUARTER_TURN = _parts()


def sincos(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sine and cosine of angles in radians, of any shape.

    For float32 within 2 units in the last place for |x| <= 1e4, where subnormal numbers
    count as 0; beyond, the error grows with |x|. Other types get XLA's own, whose
    float32 takes several times as long on a CPU.

    References:
        Cody & Waite (1980), "Software manual for the elementary functions", for the
        reduction; the polynomials are those of Cephes' sinf and cosf.
    """
    if x.dtype != jnp.float32:
        return jnp.sin(x), jnp.cos(x)
    turns = jnp.round(x * np.float32(2 / math.pi))
    a, b, c, d, e = (turns * part for part in _QUARTER_TURN)
    coarse = x - a - b  # exact, as are the products but the last
    rounded = coarse - c
    lost = (coarse - rounded) - c
    rest = rounded + ((lost - d) - e)
    square = rest * rest
    sine = rest + rest * square * _polynomial(
        square, -1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4
    )
    tail = _polynomial(
        square, 4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5
    )
    cosine = 1 - 0.5 * square + square * square * tail
    quadrant = turns.astype(jnp.int32)
    odd = (quadrant & 1) == 1
    sine, cosine = jnp.where(odd, cosine, sine), jnp.where(odd, sine, cosine)
    return (
        jnp.where((quadrant & 2) == 2, -sine, sine),
        jnp.where(((quadrant + 1) & 2) == 2, -cosine, cosine),
    )


def _polynomial(x: jax.Array, a: float, b: float, c: float) -> jax.Array:
    return np.float32(a) + x * (np.float32(b) + x * np.float32(c))
