"""Steps of learners on a mesh of devices, with shapes in place of weights and data."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rljax.algorithms import ppo
from rljax.algorithms.networks import ActorCritic
from rljax.envs import CartPole, CartPoleParams
from rljax.numerics.sharding import make_mesh
from rljax.rlhf import (
    RewardConfig,
    RewardHyperparams,
    RewardModel,
    RewardTask,
    Rope,
    Transformer,
    TransformerConfig,
    policy,
    reward_training,
)
from rljax.rlhf.data.rows import Rankings
from rljax.rlhf.policy.sharded_learner import sharded_learner
from rljax.rlhf.training import fixed_only
from rljax.training.populations import population, replicate
from rljax.training.sharded import layout, sharded

ENV, TASK, NETWORK = CartPole(), CartPoleParams(), ActorCritic(num_actions=2)

# Matrix products in bfloat16, blocks computed again for the gradient.
SMOLLM2 = TransformerConfig(
    vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_layers=30,
    num_heads=9, num_kv_heads=3, head_dim=64, max_length=8192, rope=Rope(theta=1e5),
    tie_embeddings=True, dtype=jnp.bfloat16, remat=True,
)  # fmt: skip
LLAMA3_8B = TransformerConfig(
    vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_layers=32,
    num_heads=32, num_kv_heads=8, head_dim=128, max_length=8192, rope=Rope(theta=5e5),
    dtype=jnp.bfloat16, remat=True,
)  # fmt: skip
PAIRS, LENGTH = 2, 1024  # of each device; tokens of a text
PROMPTS, GROUP, PROMPT, COMPLETION = 1, 8, 256, 256  # of each device; tokens


class Program(NamedTuple):
    """A step, and the shapes of what it reads; the first argument's memory is reused.

    Attributes:
        step: not jitted.
        args: `jax.ShapeDtypeStruct`s that lie on a mesh.
        whole: the same without a mesh, to count operations.
        tokens: of one step, on all devices; of control, 0.
    """

    step: Callable[..., Any]
    args: tuple[Any, ...]
    whole: Callable[..., Any]
    tokens: int


def ppo_population(devices: list[Any]) -> Program:
    """16 agents on every device."""
    mesh = make_mesh(devices, population=len(devices))
    agent = ppo.ppo(ENV, NETWORK, ppo.PPOConfig())
    agents = population(agent, devices=mesh)
    count = 16 * len(devices)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
    hyperparams = replicate(ppo.PPOHyperparams(), count)
    state = jax.eval_shape(agents.init, keys, hyperparams, TASK)
    by_member = jax.tree.map(lambda x: PartitionSpec("population"), state)
    args = _on(mesh, state, by_member), TASK
    return Program(agents.step, args, population(agent).step, 0)


def ppo_environments(devices: list[Any]) -> Program:
    """One agent, 1,024 environments on every device."""
    mesh = make_mesh(devices)
    config = ppo.PPOConfig(num_envs=1024 * len(devices), num_steps=32)
    agent = ppo.ppo(ENV, NETWORK, config)
    hyperparams, task = ppo.PPOHyperparams(), TASK
    state = jax.eval_shape(agent.init, _key(), hyperparams, task)
    args = _on(mesh, state, layout(state, mesh)), task
    return Program(sharded(agent, mesh).step, args, agent.step, 0)


def reward(shape: TransformerConfig, devices: list[Any]) -> Program:
    """Reward training of all parameters, two pairs of 1,024 tokens on every device."""
    mesh, module = _by_node(devices), RewardModel(shape)
    count = PAIRS * len(devices)
    config = RewardConfig(batch_size=count)
    params = jax.eval_shape(module.init, _key(), _ints(1, 1), _ints(1))["params"]
    numbers = _floats(count), _floats(count)
    pairs = Rankings(_ints(count, 2, LENGTH), _ints(count, 2), *numbers)
    task = RewardTask(pairs, params)
    algorithm = reward_training(module, config)
    state = jax.eval_shape(algorithm.init, _key(), RewardHyperparams(), task)
    task = fixed_only(module, config.trainable, task)
    args = _on(mesh, state, layout(state, mesh)), _on(mesh, task, layout(task, mesh))
    step = sharded(algorithm, mesh).step
    return Program(step, args, algorithm.step, count * 2 * LENGTH)


def grpo(shape: TransformerConfig, devices: list[Any]) -> Program:
    """GRPO's update of all parameters, eight completions on every device, sampled before."""
    mesh, module = _by_node(devices), Transformer(shape)
    method, hyperparams = policy.grpo()
    config = policy.PolicyConfig(
        method=method, num_prompts=PROMPTS * len(devices), group_size=GROUP,
        max_new_tokens=COMPLETION,
    )  # fmt: skip
    learner = policy.policy_optimization(module, config)
    init = functools.partial(module.init, method="logits")
    params = jax.eval_shape(init, _key(), _ints(1, 1))["params"]
    prompts = _ints(config.num_prompts, PROMPT), _ints(config.num_prompts)
    task = policy.PolicyTask(*prompts, params)
    state = jax.eval_shape(learner.algorithm.init, _key(), hyperparams, task)
    state, samples = jax.eval_shape(learner.sample, state, task)

    args = state, task, samples, _floats(config.num_samples)
    placed = tuple(_on(mesh, x, layout(x, mesh)) for x in args)
    tokens = config.num_samples * (PROMPT + COMPLETION)
    return Program(
        sharded_learner(learner, mesh).update, placed, learner.update, tokens
    )


PROGRAMS: dict[str, Callable[[list[Any]], Program]] = {
    "PPO, a population": ppo_population,
    "PPO, environments divided": ppo_environments,
    "reward training, SmolLM2-135M": functools.partial(reward, SMOLLM2),
    "GRPO's update, SmolLM2-135M": functools.partial(grpo, SMOLLM2),
    "reward training, Llama 3 8B": functools.partial(reward, LLAMA3_8B),
}


def _by_node(devices: list[Any]) -> Mesh:
    """Parameters in eight parts, as a node has devices; rows over all of them."""
    return make_mesh(devices, model=min(len(devices), 8))


def _on(mesh: Mesh, tree: Any, specs: Any) -> Any:
    def placed(x: Any, spec: PartitionSpec) -> Any:
        where = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return jax.tree.map(placed, tree, specs)


def _key() -> Any:
    return jax.eval_shape(jax.random.key, 0)


def _ints(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _floats(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)
