"""Sine and cosine, against long doubles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.numerics.trig import sincos

pytestmark = pytest.mark.optimized

MULTIPLES = (np.arange(-6366, 6367) * np.pi / 2).astype(np.float32)
RNG = np.random.default_rng(0)
ANGLES = {
    "all": RNG.uniform(-1e4, 1e4, 1_000_000),
    "a pole's": RNG.uniform(-0.3, 0.3, 1_000_000),
    "near multiples of pi / 2": np.concatenate(
        [MULTIPLES, *(np.nextafter(MULTIPLES, np.float32(s)) for s in (-2e4, 2e4))]
    ),
    "of all sizes": 10.0 ** RNG.uniform(-37, 4, 300_000),
    "zero": np.array([0.0, -0.0]),
}


@pytest.mark.some_cases(4)
@pytest.mark.parametrize("which", ANGLES)
@pytest.mark.parametrize("compiled", [True, False])
def test_within_2_units_in_the_last_place(which, compiled):
    x = ANGLES[which].astype(np.float32)
    if not compiled:
        x = x[:20_000]
    with jax.disable_jit(not compiled):
        found = jax.jit(sincos)(jnp.asarray(x))
    for ours, exact in zip(found, (np.sin, np.cos), strict=True):
        exact = exact(x.astype(np.longdouble))
        unit = np.spacing(np.abs(exact).astype(np.float32))
        assert np.max(np.abs(np.asarray(ours, np.longdouble) - exact) / unit) <= 2


def test_float64_is_xlas_own():
    with jax.enable_x64(True):
        x = jnp.linspace(-10, 10, 1001, dtype=jnp.float64)
        sine, cosine = sincos(x)
        np.testing.assert_array_equal(sine, jnp.sin(x))
        np.testing.assert_array_equal(cosine, jnp.cos(x))


def test_what_is_no_number_stays_none():
    for x in (jnp.nan, jnp.inf, -jnp.inf):
        assert all(map(jnp.isnan, sincos(jnp.float32(x))))


def test_derivatives():
    sine, cosine = sincos(jnp.float32(0.7))
    slopes = jax.jacfwd(lambda x: jnp.stack(sincos(x)))(jnp.float32(0.7))
    np.testing.assert_allclose(slopes, [cosine, -sine], rtol=1e-5)
