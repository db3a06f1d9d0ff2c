"""DPO where every completion can be listed: exact preferences have a known optimum."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.data.rows import Rankings
from rljax.rlhf.direct import (
    DirectConfig,
    DirectHyperparams,
    DirectTask,
    direct_alignment,
    implicit_rewards,
    with_reference,
)
from rljax.rlhf.direct.reference import row_log_probs
from rljax.rlhf.models import Transformer, TransformerConfig
from rljax.training.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.optimized]

CONFIG = TransformerConfig(
    vocab_size=5, hidden_size=64, intermediate_size=256, num_layers=1, num_heads=4,
    num_kv_heads=4, head_dim=16, max_length=5, rope=None,
)  # fmt: skip
WORLD = Transformer(CONFIG)
EVERY = np.array([(0, *rest) for rest in itertools.product(range(5), repeat=4)])
ONES = np.ones((625, 1))
BETA = 0.8


def kl(p, q):
    return float((np.exp(p) * (p - q)).sum())


def test_exact_preferences_lead_to_the_optimum_of_reward_and_kl():
    """pi* = pi_ref exp(r / beta) / Z, of all 625 completions of one prompt."""
    params = WORLD.init(jax.random.key(2), jnp.int32(EVERY[:1]), method="logits")
    params = jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, params["params"])
    rng = np.random.default_rng(0)
    of_token, of_two = 0.5 * rng.normal(size=(5, 5)), 0.5 * rng.normal(size=(5, 5, 5))
    rewards = sum(of_token[t][EVERY[:, t]] for t in range(1, 5))
    rewards += sum(of_two[t][EVERY[:, t], EVERY[:, t + 1]] for t in range(1, 4))

    one, two = rng.integers(0, 625, (2, 4000))
    one, two = one[one != two], two[one != two]
    probs = 1 / (1 + np.exp(rewards[two] - rewards[one]))
    sizes = np.full((len(one), 2), 5)
    both = np.stack([EVERY[one], EVERY[two]], axis=1)
    rows = Rankings.of(both, sizes, probs=probs, starts=np.ones_like(sizes))
    task = DirectTask(with_reference(WORLD, params, rows), params)
    alone = Rankings.of(EVERY[:, None], 5 * ONES, starts=ONES)

    def law(params):
        return np.float64(row_log_probs(WORLD, params, alone)[:, 0])

    reference = law(params)
    assert np.exp(reference).sum() == pytest.approx(1.0, rel=1e-4)
    optimum = reference + rewards / BETA
    optimum -= np.log(np.exp(optimum).sum())

    algorithm = direct_alignment(WORLD, DirectConfig(batch_size=128))
    numbers = DirectHyperparams(
        learning_rate=3e-3, decay_updates=800, beta=BETA, max_grad_norm=np.inf
    )
    state = jax.jit(algorithm.init)(jax.random.key(0), numbers, task)
    state = train(algorithm, state, task, 800)
    assert kl(reference, optimum) > 0.3
    assert kl(law(state.params), optimum) < 1e-2
    # The policy is a reward model, up to a constant.
    found = implicit_rewards(
        WORLD, state.params, with_reference(WORLD, params, alone), beta=BETA
    )[:, 0]
    assert np.corrcoef(found, rewards)[0, 1] > 0.99
