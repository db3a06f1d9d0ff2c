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
from rljax.rlhf.models.log_probs import token_log_probs
from rljax.rlhf.policy.settings import check_hyperparams
from rljax.sweeps import Problem, Results
from rljax.sweeps.results import FINISHED
from rljax.training.populations import decay_over

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
    return token_log_probs(logits, ids, temperature).sum(axis=1)


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


class Best(NamedTuple):
    """What the best policies of B betas have: the frontier of reward against divergence.

    Attributes:
        kl: `[B]`, KL(pi* || pi_ref), in nats.
        reward: `[B]`, E[r].
        objective: `[B]`, E[r] - beta KL(pi* || pi_ref).
    """

    kl: Any
    reward: Any
    objective: Any

    @property
    def places(self) -> list[tuple[float, float]]:
        """B pairs of divergence and reward."""
        return list(zip(self.kl.tolist(), self.reward.tolist(), strict=True))


def best_of(world: World, betas: Any) -> Best:
    """Returns what there is to find for each of the betas `[B]`, exactly."""
    reference = log_probs(world.params)

    def best(beta: jax.Array) -> Best:
        star = best_policy(reference, world.rewards, beta)
        kl, reward = divergence(star, reference), (jnp.exp(star) * world.rewards).sum()
        return Best(kl, reward, reward - beta * kl)

    return jax.device_get(jax.vmap(best)(jnp.asarray(betas, jnp.float32)))


def compare(results: Results, betas: Any, best: Best) -> list[dict[str, float]]:
    """Returns a row for each beta: means of its runs' ends, beside the best there can be.

    `kl` and `reward` are of the completions since the evaluation before; distances from
    the best policy, KL(pi || pi*), are exact.
    """
    distances = best.objective[:, None] - results.final
    distances /= np.reshape(betas, (-1, 1))
    found = {name: results.metrics[name][:, :, -1] for name in ("kl", "reward")}
    found["distance"] = distances
    lost = results.status != FINISHED
    kept = {name: np.ma.masked_array(x, lost) for name, x in found.items()}
    columns = {"beta": betas, "best_kl": best.kl, "best_reward": best.reward}
    columns |= {name: x.mean(axis=1).filled(np.nan) for name, x in kept.items()}
    columns["largest_distance"] = kept["distance"].max(axis=1).filled(np.nan)
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, map(float, row), strict=True)) for row in rows]


def objective(module: Any, state: Any, task: policy.PolicyTask, key: Any) -> jax.Array:
    """Returns J = E[r] - beta KL(pi || pi_ref) of a run's policy, exactly.

    J is J* - beta KL(pi || pi*), so that (J* - J) / beta is the distance from the best.
    """
    del module, key
    found = log_probs(state.params)
    kl = divergence(found, log_probs(task.params))
    return (jnp.exp(found) * task.reward).sum() - state.hyperparams.beta * kl


def algorithm(module: Transformer, config: policy.PolicyConfig) -> Any:
    """Returns the policy optimization whose rewards are in a table."""
    return policy.policy_optimization(module, config, table_reward).algorithm


def make_problem(
    world: World,
    config: policy.PolicyConfig,
    hyperparams: policy.PolicyHyperparams,
    num_updates: int,
) -> Problem:
    """Returns what is swept; any model, reward and `evaluate` make one likewise."""
    return Problem(
        algorithm=algorithm,
        evaluate=objective,
        network=MODULE,
        config=config,
        hyperparams=hyperparams,
        task=make_task(world),
        total_steps=num_updates * config.batch_size,
        prepare=decay_over,
        check=check_hyperparams,
    )


def make_config(method: str, num_samples: int) -> policy.PolicyConfig:
    """Returns a method's configuration: one prompt, an update's completions its group."""
    return policy.PolicyConfig(
        method=METHODS[method],
        num_prompts=1,
        group_size=num_samples,
        max_new_tokens=LENGTH,
    )


def make_learner(method: str, num_samples: int) -> policy.Learner:
    """Returns the learner of a method."""
    config = make_config(method, num_samples)
    return policy.policy_optimization(MODULE, config, table_reward)


def make_task(world: World) -> policy.PolicyTask:
    """Returns the task of the one prompt, token 0."""
    one = jnp.ones(1, jnp.int32)
    return policy.PolicyTask(one[:, None] - 1, one, world.params, world.rewards)
