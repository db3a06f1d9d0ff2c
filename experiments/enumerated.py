"""A language of five tokens and four places, all 625 completions of which are listed.

So that everything is known: the best policy for any beta, what a policy's completions earn
on average, and how far it is from its reference.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.rlhf import policy
from rljax.rlhf.models import Transformer, TransformerConfig

VOCABULARY, LENGTH = 5, 4
COMPLETIONS = np.array(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))
ROWS = np.concatenate([np.zeros((len(COMPLETIONS), 1), int), COMPLETIONS], axis=1)
MODULE = Transformer(
    TransformerConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        head_dim=32,
        max_length=LENGTH + 1,
        rope=None,
    )
)

_EXACT: dict[str, Any] = {"kl": "whole", "kl_estimator": "exact"}
METHODS = {
    "reinforce": policy.PolicyMethod(baseline="batch", **_EXACT),
    "rloo": policy.PolicyMethod(baseline="leave_one_out", **_EXACT),
    "dr_grpo": policy.PolicyMethod(
        baseline="group", ratio="token", aggregation="constant", **_EXACT
    ),
    "ppo": policy.PolicyMethod(ratio="token", critic="head", **_EXACT),
    "grpo": policy.PolicyMethod(
        baseline="group", scale="group", ratio="token", **_EXACT
    ),
}
"""All with the exact divergence, and the whole of its gradient."""


class World(NamedTuple):
    """What is to be learned.

    Attributes:
        params: of the reference, from which the policy starts.
        rewards: `[625]`, of each completion.
    """

    params: Any
    rewards: jax.Array


def make_world(seed: int) -> World:
    """Draws a reference that is far from uniform, and rewards of neighbouring tokens."""
    ids = jnp.zeros((1, 1), jnp.int32)
    params = MODULE.init(jax.random.key(seed), ids, method="logits")["params"]
    params |= {"lm_head": jax.tree.map(lambda x: 6 * x, params["lm_head"])}
    rng = np.random.default_rng(seed)
    of_places = rng.normal(size=(LENGTH, VOCABULARY))
    of_pairs = rng.normal(size=(VOCABULARY, VOCABULARY))
    rewards = of_places[np.arange(LENGTH), COMPLETIONS].sum(axis=1)
    rewards += of_pairs[COMPLETIONS[:, :-1], COMPLETIONS[:, 1:]].sum(axis=1)
    rewards = (rewards - rewards.mean()) / rewards.std()
    return World(params, jnp.asarray(rewards, jnp.float32))


def table_reward(rewards: jax.Array, samples: policy.Samples) -> jax.Array:
    """Returns `[N]`, looked up in the table of all completions."""
    places = VOCABULARY ** np.arange(LENGTH)[::-1]
    return rewards[(samples.completions * places[None]).sum(axis=1)]


def log_probs(params: Any, temperature: float = 1.0) -> jax.Array:
    """Returns `[625]` log-probabilities of all completions."""
    ids = jnp.asarray(ROWS, jnp.int32)
    apply: Any = MODULE.apply
    logits = apply({"params": params}, ids, method="logits")
    table = jax.nn.log_softmax(logits[:, :-1] / temperature)
    return jnp.take_along_axis(table, ids[:, 1:, None], axis=-1)[..., 0].sum(axis=1)


def best_policy(reference: jax.Array, rewards: jax.Array, beta: Any) -> jax.Array:
    """Returns `[625]` log-probabilities, of pi* ~ pi_ref exp(r / beta).

    It maximizes E[r] - beta KL(pi || pi_ref): Ziebart et al. (2008); Korbak et al. (2022),
    https://arxiv.org/abs/2205.11275.
    """
    return jax.nn.log_softmax(reference + rewards / beta)


def grpo_policy(reference: jax.Array, rewards: jax.Array, beta: float) -> jax.Array:
    """Returns `[625]` log-probabilities of the policy that stays as it is under GRPO.

    Dividing by the standard deviation sigma of rewards under the policy itself, it is
    pi_ref exp(r / (beta sigma)); the largest such sigma is found by bisection.

    Raises:
        ValueError: there is none above 0: with so small a beta the policy collapses.
    """

    def deviation(sigma):
        probs = jnp.exp(best_policy(reference, rewards, beta * sigma))
        mean = (probs * rewards).sum()
        return jnp.sqrt((probs * (rewards - mean) ** 2).sum())

    low, high = 0.0, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if deviation(middle) > middle else (low, middle)
    if not low:
        raise ValueError(f"beta must be larger for GRPO not to collapse, got {beta}.")
    return best_policy(reference, rewards, beta * low)


def divergence(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns KL(one || other) of log-probabilities `[625]`, in nats."""
    return (jnp.exp(one) * (one - other)).sum()


def make_learner(method: str, num_samples: int) -> policy.Learner:
    """Returns the learner of a method: one prompt, all completions of an update its group."""
    config = policy.PolicyConfig(
        method=METHODS[method],
        num_prompts=1,
        group_size=num_samples,
        max_new_tokens=LENGTH,
    )
    return policy.policy_optimization(MODULE, config, table_reward)


def make_task(world: World) -> policy.PolicyTask:
    """Returns the task of the one prompt, token 0."""
    one = jnp.ones(1, jnp.int32)
    return policy.PolicyTask(one[:, None] - 1, one, world.params, world.rewards)
