"""The noise of a step: its hash in plain integers, and statistics of known power.

Of n = 2**20 numbers, a correlation of 0.6 %, a mean off by 0.2 %, or a bin of 64 off by
5 % would be seen: limits are 6 standard errors, so that chance fails one run in 10**8.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rljax.numerics.random import (
    bits,
    gumbels,
    normals,
    pcg4d,
    permutations,
    uniform,
    uniforms,
)

pytestmark = pytest.mark.optimized

NUM_ENVS, STEPS, NUMBERS = 4096, 256, 5
COUNT = NUM_ENVS * STEPS


@pytest.fixture(scope="module")
def drawn():
    """`[5, STEPS, NUM_ENVS]`: of several steps, as an episode would meet them."""
    step_keys = jax.random.bits(jax.random.key(0), (STEPS, 2), jnp.uint32)
    indices = jnp.arange(NUM_ENVS, dtype=jnp.uint32)

    def step(key):
        return jnp.stack([uniform(key, indices, i) for i in range(NUMBERS)])

    return np.asarray(jax.jit(jax.vmap(step, out_axes=1))(step_keys), np.float64)


def test_the_hash_in_plain_integers():
    def plain(v):
        v = [(x * 1664525 + 1013904223) % 2**32 for x in v]
        for again in (True, False):
            for i, (a, b) in enumerate([(1, 3), (2, 0), (0, 1), (1, 2)]):
                v[i] = (v[i] + v[a] * v[b]) % 2**32
            if again:
                v = [x ^ x >> 16 for x in v]
        return v

    for words in ([0, 0, 0, 0], [1, 2, 3, 4], [2**32 - 1, 5, 2**31, 77]):
        found = pcg4d(*(jnp.uint32(x) for x in words))
        assert [int(x) for x in found] == plain(words)


def test_an_environment_gets_the_same_numbers_in_any_batch():
    key = jax.random.bits(jax.random.key(1), (2,), jnp.uint32)
    many = uniform(key, jnp.arange(1000, dtype=jnp.uint32), 3)
    np.testing.assert_array_equal(
        uniform(key, jnp.uint32([7, 993]), 3), np.asarray(many)[[7, 993]]
    )


def test_uniform(drawn):
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for number in drawn:
        assert abs(number.mean() - 0.5) < 6 * np.sqrt(1 / 12 / COUNT)
        assert abs(number.var() - 1 / 12) < 6 * np.sqrt(1 / 180 / COUNT)
        assert chi_square(np.bincount((number.ravel() * 64).astype(int), minlength=64))


def test_every_bit_is_fair(drawn):
    bits = (drawn * 2**23).astype(np.int64)
    for bit in range(23):
        shares = (bits >> bit & 1).mean(axis=(1, 2))
        assert np.all(np.abs(shares - 0.5) < 6 * 0.5 / np.sqrt(COUNT))


@pytest.mark.some_cases(2)
@pytest.mark.parametrize("lag", [1, 2, 16, 64, 1024])
def test_environments_are_independent(drawn, lag):
    for number in drawn:
        assert independent(number[:, :-lag], number[:, lag:])


@pytest.mark.parametrize("lag", [1, 2, 16, 64])
def test_steps_are_independent(drawn, lag):
    for number in drawn:
        assert independent(number[:-lag], number[lag:])


def test_the_numbers_of_a_step_are_independent(drawn):
    for i in range(NUMBERS):
        for j in range(i):
            assert independent(drawn[i], drawn[j])


def test_a_flaw_would_be_seen(drawn):
    number = drawn[0]
    assert not independent(number, np.where(drawn[1] < 0.02, number, drawn[2]))
    assert not chi_square(np.bincount((number.ravel() ** 1.05 * 64).astype(int)))


SHAPES = [(), (5,), (5, 3), (5, 3, 2)]


@pytest.mark.some_cases(2)
@pytest.mark.parametrize("shape", SHAPES)
def test_words_of_a_row_do_not_depend_on_the_number_of_rows(shape):
    many = bits(jax.random.key(2), (9, *shape[1:]) if shape else ())
    np.testing.assert_array_equal(
        bits(jax.random.key(2), shape), many[: shape[0]] if shape else many
    )
    assert bits(jax.random.key(2), shape).dtype == jnp.uint32


def test_words_differ_by_key_row_and_column():
    keys = jax.random.split(jax.random.key(3), 100)
    words = jax.jit(jax.vmap(lambda key: bits(key, (10, 10, 10))))(keys)
    # Of 100,000 words of 32 bits, 1.2 pairs are equal by chance.
    assert len(np.unique(words)) > words.size - 12


@pytest.mark.some_cases(1)
@pytest.mark.parametrize(
    ("draw", "distribution"),
    [
        (uniforms, scipy.stats.uniform),
        (normals, scipy.stats.norm),
        (gumbels, scipy.stats.gumbel_r),
    ],
)
def test_distributions(draw, distribution):
    """Kolmogorov and Smirnov: a distance of 0.3 % would be seen."""
    drawn = np.asarray(draw(jax.random.key(4), (1000, 40, 25)), np.float64)
    assert np.isfinite(drawn).all()
    assert scipy.stats.kstest(drawn.ravel(), distribution.cdf).pvalue > 1e-8
    assert scipy.stats.kstest(1.02 * drawn.ravel(), distribution.cdf).pvalue < 1e-4


def independent(a, b):
    """No correlation, and no dependence of the leading or of the trailing four bits."""
    correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    tables = (
        (a * 16).astype(int) * 16 + (b * 16).astype(int),
        (a * 2**23).astype(int) % 16 * 16 + (b * 2**23).astype(int) % 16,
    )
    return abs(correlation) < 6 / np.sqrt(a.size) and all(
        chi_square(np.bincount(table.ravel(), minlength=256)) for table in tables
    )


def chi_square(counts):
    """Whether counts of equally likely bins are as even as chance has them."""
    mean = counts.sum() / len(counts)
    statistic, freedom = ((counts - mean) ** 2 / mean).sum(), len(counts) - 1
    return abs(statistic - freedom) < 6 * np.sqrt(2 * freedom)


@pytest.mark.some_cases(2)
@pytest.mark.parametrize("size", [1, 2, 7, 512, 2**16, 2**16 + 1])
def test_permutations_hold_every_index_once(size):
    orders = jax.jit(permutations, static_argnums=(1, 2))(jax.random.key(0), 3, size)
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(size), (3, 1)))
    if size > 2:
        assert len({tuple(order) for order in np.asarray(orders)}) == 3


def test_all_permutations_are_equally_likely():
    """Of 4! orders; a chance off by a tenth would be seen, at 6 standard errors."""
    orders = jax.jit(permutations, static_argnums=(1, 2))(jax.random.key(1), 100_000, 4)
    _, counts = np.unique(np.asarray(orders), axis=0, return_counts=True)
    assert len(counts) == 24
    assert np.max(np.abs(counts / 100_000 - 1 / 24)) < 6 * np.sqrt(1 / 24 / 100_000)
