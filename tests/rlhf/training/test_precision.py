"""Reward training with bfloat16 products, and with blocks that are computed once more."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.data.rows import Rankings
from rljax.rlhf.models import RewardModel, TransformerConfig
from rljax.rlhf.training import (
    RewardConfig,
    RewardHyperparams,
    RewardTask,
    reward_training,
)

TINY = TransformerConfig(
    vocab_size=16, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2,
    num_kv_heads=1, head_dim=8, max_length=12,
)  # fmt: skip


def trained(**change):
    """Parameters and metrics after some updates from the same start."""
    module = RewardModel(dataclasses.replace(TINY, **change))
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(0, 16, (8, 2, 12)), rng.integers(1, 13, (8, 2))
    first = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    params = RewardModel(TINY).init(jax.random.key(0), *first)["params"]
    config = RewardConfig(batch_size=8, new_head=False)
    algorithm = reward_training(module, config)
    task = RewardTask(Rankings.of(ids, lengths), params)
    state = algorithm.init(
        jax.random.key(1), RewardHyperparams(learning_rate=1e-2), task
    )
    step, losses = jax.jit(algorithm.step), []
    for _ in range(30):
        state, metrics = step(state, task)
        losses.append(metrics["loss"].value)
    return state.params, np.array(losses)


@pytest.fixture(scope="module")
def plain():
    return trained()


@pytest.mark.slow
def test_computing_blocks_once_more_changes_nothing_but_rounding(plain):
    _, losses = trained(remat=True)
    np.testing.assert_allclose(losses[:3], plain[1][:3], atol=1e-5)
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.slow
def test_bfloat16_products_train_float32_parameters(plain):
    params, losses = trained(dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(losses[:3], plain[1][:3], atol=0.05)
    assert np.abs(losses[0] - plain[1][0]) > 1e-6
    assert losses[-1] < 0.3 * losses[0]
