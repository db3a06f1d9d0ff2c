"""Segments and simulated people, against loops in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.base import Transition
from rljax.rlhf.segments import (
    Segment,
    add_pairs,
    cut_segments,
    draw_pairs,
    no_pairs,
    prefers_first,
)

T, B, L = 23, 3, 5


@pytest.fixture
def steps():
    rng = np.random.default_rng(0)
    return Transition(
        observation=jnp.float32(rng.normal(size=(T, B, 2))),
        action=jnp.int32(rng.integers(0, 2, (T, B))),
        reward=jnp.float32(rng.normal(size=(T, B))),
        terminated=jnp.asarray(rng.random((T, B)) < 0.1),
        truncated=jnp.asarray(rng.random((T, B)) < 0.1),
        next_observation=None,
        extras=None,
    )


def test_segments_end_with_their_episode_and_are_worth_what_is_before(steps):
    utility = jnp.asarray(np.random.default_rng(1).normal(size=(T, B)), jnp.float32)
    cut = jax.jit(cut_segments, static_argnums=2)(steps, utility, L)
    wanted = []
    for start in range(0, T - L + 1, L):
        for b in range(B):
            valid, total, alive = [], 0.0, True
            for t in range(start, start + L):
                valid.append(alive)
                total += float(utility[t, b]) if alive else 0.0
                alive = alive and not (steps.terminated[t, b] or steps.truncated[t, b])
            rows = slice(start, start + L)
            wanted.append(
                (steps.observation[rows, b], steps.action[rows, b], valid, total)
            )
    observation, action, valid, returns = map(np.array, zip(*wanted, strict=True))
    assert not valid.all()
    assert valid.any(axis=1).all()
    np.testing.assert_array_equal(cut.segments.observation, observation)
    np.testing.assert_array_equal(cut.segments.action, action)
    np.testing.assert_array_equal(cut.segments.valid, valid)
    np.testing.assert_allclose(cut.returns, returns, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_person_prefers_as_bradley_and_terry_say(temperature, key):
    returns = jnp.tile(jnp.float32([[3.0, 2.0], [0.0, 0.0], [1.0, 4.0]]), (20_000, 1))
    first = prefers_first(key, returns, temperature).reshape(-1, 3).mean(0)
    wanted = [1 / (1 + np.exp(-d / temperature)) for d in (1.0, 0.0, -3.0)]
    np.testing.assert_allclose(first, wanted, atol=5 * 0.5 / np.sqrt(20_000))


def test_at_temperature_0_the_better_one_is_preferred(key):
    returns = jnp.tile(jnp.float32([[3.0, 2.0], [0.0, 900.0], [1.0, 1.0]]), (999, 1))
    first = prefers_first(key, returns, 0.0).reshape(-1, 3).mean(0)
    assert first[:2].tolist() == [1, 0]
    assert 0.4 < first[2] < 0.6


def test_pairs_are_of_two_different_segments_all_alike(key):
    pairs = np.asarray(draw_pairs(key, 4, 24_000))
    assert (pairs[:, 0] != pairs[:, 1]).all()
    counts = np.bincount(4 * pairs[:, 0] + pairs[:, 1], minlength=16).reshape(4, 4)
    expected = 24_000 / 12 * (1 - np.eye(4))
    assert (abs(counts - expected) < 6 * np.sqrt(2000)).all()


def a_segment(rng, *batch):
    return Segment(
        observation=jnp.float32(rng.normal(size=(*batch, L, 2))),
        action=jnp.int32(rng.integers(0, 3, (*batch, L))),
        valid=jnp.asarray(rng.random((*batch, L)) < 0.8),
    )


def test_comparisons_add_up_and_a_full_array_takes_no_more():
    rng = np.random.default_rng(0)
    pairs = no_pairs(a_segment(rng, 1), 5)
    add = jax.jit(add_pairs)
    kept = []
    for num_new in (2, 0, 1, 3, 3):
        segments, first = a_segment(rng, 3, 2), jnp.asarray(rng.random(3) < 0.5)
        pairs = add(pairs, segments, first, jnp.int32(num_new))
        kept += [
            (jax.tree.map(lambda x, i=i: x[i], segments), first[i])
            for i in range(num_new)
        ]
    assert int(pairs.count) == 5
    for row, (segment, first) in enumerate(kept[:5]):
        chex.assert_trees_all_equal(
            jax.tree.map(lambda x, i=row: x[i], pairs.segments), segment
        )
        assert pairs.probs[row] == first
