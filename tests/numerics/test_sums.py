"""Sums at the edge of float32, and beyond."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.numerics.sums import add_compensated


def summed(start, terms):
    def add(carry, term):
        return add_compensated(*carry, term), None

    first = jnp.float32(start), jnp.float32(0)
    return jax.jit(lambda terms: jax.lax.scan(add, first, terms)[0][0])(terms)


@pytest.mark.parametrize("power", [24, 30, 40])
def test_ones_are_counted_far_beyond_the_last_whole_float(power):
    ones = jnp.ones(100_000, jnp.float32)
    wanted = np.float32(2.0**power + 100_000)
    assert np.float32(2.0**power) + np.float32(1) == np.float32(2.0**power)
    np.testing.assert_allclose(summed(2.0**power, ones), wanted, rtol=6e-8)
    assert summed(2.0**power, ones) > 2.0**power or power == 40


def test_fractions_add_up_to_the_last_bit():
    terms = np.random.default_rng(0).uniform(-1, 2, 300_000).astype(np.float32)
    np.testing.assert_allclose(summed(0, terms), terms.sum(dtype=float), rtol=6e-8)
    with np.errstate(all="ignore"):
        assert abs(np.cumsum(terms)[-1] / terms.sum(dtype=float) - 1) > 6e-8
