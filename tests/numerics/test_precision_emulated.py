"""The emulation of rounded matrix products, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounded_products import with_rounding

from rljax.numerics.linalg import matmul
from rljax.rlhf import RewardModel, TransformerConfig

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2, 5, 5)).astype(np.float32)


def rounded(x, bits):
    """Float32 with so many bits after the point, to the nearest, of two the even one."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.rint(np.ldexp(mantissa, bits + 1)), exponent - bits - 1)


def product(x, y):
    """Each sum by itself."""
    z = np.zeros((len(x), y.shape[1]))
    for i, j in np.ndindex(z.shape):
        z[i, j] = sum(x[i, k] * y[k, j] for k in range(len(y)))
    return z


@pytest.mark.parametrize("bits", [7, 10])
def test_factors_are_rounded_and_sums_are_not(bits):
    found = jax.jit(with_rounding(jnp.matmul, 8, bits))(X, Y)
    want = product(rounded(X, bits), rounded(Y, bits))
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-6)
    assert abs(want - product(X, Y)).max() > 2.0**-bits / 10  # it makes a difference


@jax.custom_jvp
def times(x, y):
    return x @ y


times.defjvp(lambda x, _: (times(*x), x[0]))  # not used


def in_a_loop(x, y):
    return jax.lax.scan(lambda x, _: (x @ y, None), x, None, length=2)[0] @ y


def in_a_branch(x, y):
    return jax.lax.cond(x[0, 0] > 9, jnp.add, jnp.matmul, x, y) @ y @ y


def in_calls(x, y):
    return times(jax.jit(jax.checkpoint(matmul))(x, y), y) @ y


@pytest.mark.parametrize("function", [in_a_loop, in_a_branch, in_calls])
def test_products_within_others_are_rounded(function):
    want = X
    for _ in range(3):
        want = np.float32(product(rounded(want, 7), rounded(Y, 7)))
    found = jax.jit(with_rounding(function, 8, 7))(X, Y)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_what_is_not_looked_into_is_refused():
    def until_large(x):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x)

    with pytest.raises(NotImplementedError, match="'while'"):
        with_rounding(until_large, 8, 7)(X)


def test_a_model_scores_the_same_with_all_bits_and_not_with_fewer():
    config = TransformerConfig(
        vocab_size=16, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2,
        num_kv_heads=1, head_dim=8, max_length=8,
    )  # fmt: skip
    module, ids = RewardModel(config), jnp.asarray(RNG.integers(16, size=(3, 8)))
    rows = ids.astype(jnp.int32), jnp.array([8, 3, 5], jnp.int32)
    variables = jax.jit(module.init)(jax.random.key(0), *rows)
    want = jax.jit(module.apply)(variables, *rows)
    same, other = (
        jax.jit(with_rounding(module.apply, 8, bits))(variables, *rows)
        for bits in (23, 7)
    )
    np.testing.assert_allclose(same, want, rtol=1e-6, atol=1e-7)
    assert 1e-5 < abs(other - want).max() < 0.1
