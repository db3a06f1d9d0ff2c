"""Policies learn what is known to be best: pi* ~ pi_ref exp(r / beta), by enumeration."""

import functools

import jax
import numpy as np
import pytest
from enumerated import (
    METHODS,
    best_policy,
    divergence,
    grpo_policy,
    log_probs,
    make_learner,
    make_task,
    make_world,
)

from rljax.rlhf.policy import PolicyHyperparams
from rljax.training.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.optimized]

BETA, NUM_UPDATES = 0.7, 400


@functools.cache
def world_and_reference():
    world = make_world(0)
    return world, jax.jit(log_probs)(world.params)


@functools.cache
def learned(method):
    """Log-probabilities of all completions under what a method has learned."""
    world, _ = world_and_reference()
    learner, task = make_learner(method, 256), make_task(world)
    hyperparams = PolicyHyperparams(
        learning_rate=3e-3,
        critic_learning_rate=1e-2,
        decay_updates=NUM_UPDATES,
        beta=BETA,
        gae_lambda=1.0,
    )
    state = jax.jit(learner.algorithm.init)(jax.random.key(1), hyperparams, task)
    state = train(learner.algorithm, state, task, NUM_UPDATES)
    return jax.jit(log_probs)(state.params)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"grpo"}))
def test_without_a_deviation_the_best_policy_is_found(method):
    world, reference = world_and_reference()
    best = best_policy(reference, world.rewards, BETA)
    assert divergence(best, reference) > 0.5
    assert divergence(learned(method), best) < 1e-2


def test_divided_by_the_groups_deviation_another_policy_is_found():
    world, reference = world_and_reference()
    best = best_policy(reference, world.rewards, BETA)
    other = grpo_policy(reference, world.rewards, BETA)
    assert divergence(learned("grpo"), other) < 2e-2
    assert divergence(learned("grpo"), best) > 0.1
    # It is the best one for another beta.
    np.testing.assert_allclose(np.exp(other).sum(), 1.0, rtol=1e-5)
    probs = np.exp(np.float64(other))
    mean = (probs * np.asarray(world.rewards)).sum()
    sigma = np.sqrt((probs * (np.asarray(world.rewards) - mean) ** 2).sum())
    other_beta = best_policy(reference, world.rewards, BETA * sigma)
    np.testing.assert_allclose(other, other_beta, atol=1e-3)
