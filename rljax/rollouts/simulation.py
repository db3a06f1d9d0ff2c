"""Very many environments, of which only totals are kept: a thousand million steps a second.

`rollout.unroll` collects what a learner learns from; here a step costs little more than its
physics. Environments are stepped in blocks that stay in the cache, on every device.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.envs.variation import ParamsPerEnv
from rljax.envs.vector import Draws, VectorEnv
from rljax.numerics import random
from rljax.numerics.compiler import CPU_FLAGS, compiler_options
from rljax.numerics.sharding import device_mesh, shard_leading_axis
from rljax.numerics.sums import add_compensated

SUMMED = 64
"""Steps whose rewards are added without compensation."""


class Totals(NamedTuple):
    """Sums over all steps of each of `B` environments.

    Attributes:
        reward: float32 `[B]`, the sum of all rewards, as exact as a sum of 64 of them.
        episodes: int32 `[B]`, episodes that ended.
    """

    reward: jax.Array
    episodes: jax.Array


def simulate(
    key: jax.Array,
    env: Any,
    params: Any,
    act: Callable[[Any, Any, jax.Array], Any],
    policy: Any = None,
    *,
    num_envs: int,
    num_steps: int,
    devices: Sequence[Any] | None = None,
) -> Totals:
    """Steps `num_envs` environments `num_steps` times each, episode after episode.

    An environment's numbers do not depend on how many environments or devices there are.
    Compiled here, once for an environment, `act`, and sizes.

    Args:
        key: consumed.
        env: the environment; hashable.
        params: its parameters.
        act: `(policy, observation, uniform) -> action` over all environments of a block
            at once; `uniform` is float32 `[B]` in [0, 1), new in each step, to draw by.
        policy: the first argument of `act`: a pytree, such as a network's params.
        num_envs: number of environments B.
        num_steps: steps of each.
        devices: where; by default on all devices.

    Returns:
        The totals of each environment.

    Raises:
        ValueError: `num_envs` or `num_steps` is not in [1, 2**31).
    """
    for name, value in (("num_envs", num_envs), ("num_steps", num_steps)):
        if not 1 <= value < 2**31:
            raise ValueError(f"{name} must lie in [1, 2**31), got {value}. Change it.")
    devices = tuple(jax.devices() if devices is None else devices)
    program = compile_simulation(env, act, num_envs, num_steps, devices)
    return program(key, params, policy)


@functools.lru_cache(maxsize=64)
def compile_simulation(
    env: Any, act: Any, num_envs: int, num_steps: int, devices: tuple[Any, ...]
) -> Any:
    """The jitted function `(key, params, policy) -> Totals` of `simulate`."""
    num_blocks, size = _blocks(num_envs, len(devices), devices[0].platform)

    def run(key: jax.Array, params: Any, policy: Any) -> Totals:
        start_key, steps_key, key = jax.random.split(key, 3)
        reset_words = jax.random.bits(start_key, (2,), jnp.uint32)
        step_words = jax.random.bits(steps_key, (num_steps, 2), jnp.uint32)
        block = functools.partial(_simulate_block, env, act, size)

        def blocks(first_indices, *shared):
            return jax.lax.map(lambda index: block(index, *shared), first_indices)

        axes = (0, None, None, None, None, None)
        on_devices = shard_leading_axis(blocks, axes, device_mesh(devices), "data")
        totals = on_devices(
            jnp.arange(num_blocks, dtype=jnp.uint32) * size,
            *(reset_words, step_words, key, params, policy),
        )
        return jax.tree.map(lambda x: x.reshape(-1)[:num_envs], totals)

    return jax.jit(run, compiler_options=compiler_options(devices[0].platform))


def _simulate_block(
    env, act, size, first_index, reset_words, step_words, key, params, policy
):
    """The totals of environments `first_index` to `first_index + size`."""
    vector = VectorEnv(env)
    index = first_index + jnp.arange(size, dtype=jnp.uint32)
    if isinstance(params, ParamsPerEnv):
        params = params.rows(index)

    def draw(words, step_key, reset_key):
        """Number 0 is the policy's; then come the step's numbers and the reset's."""
        taken = vector.step_size or 0
        return Draws(
            _draws(words, step_key, index, 1, vector.step_size),
            _draws(words, reset_key, index, 1 + taken, vector.reset_size),
        )

    def one_step(carry, words):
        key, state, observation, totals = carry
        key, step_key, reset_key = jax.random.split(key, 3)
        action = act(policy, observation, random.uniform(words, index, 0))
        draws = draw(words, step_key, reset_key)
        after, timestep = vector.step_and_reset(draws, params, state, action)
        done = timestep.terminated | timestep.truncated
        totals = Totals(totals.reward + timestep.reward, totals.episodes + done)
        return (key, *after, totals), None

    def some_steps(carry, words):
        """A compensated sum of plain ones: to compensate each step would cost 4 %."""
        *world, totals, lost = carry
        *world, more = jax.lax.scan(one_step, (*world, nothing), words)[0]
        reward, lost = add_compensated(totals.reward, lost, more.reward)
        return (*world, Totals(reward, totals.episodes + more.episodes), lost), None

    # Every block uses it: a key is an environment's own by the index folded in.
    key, step_key, reset_key = jax.random.split(jax.random.clone(key), 3)
    draws = draw(reset_words, step_key, reset_key)
    nothing = Totals(jnp.zeros(size, jnp.float32), jnp.zeros(size, jnp.int32))
    carry = key, *vector.reset_all(draws.reset, params), nothing, nothing.reward
    together, rest = jnp.split(step_words, [len(step_words) // SUMMED * SUMMED])
    if len(together):
        carry, _ = jax.lax.scan(some_steps, carry, together.reshape(-1, SUMMED, 2))
    if len(rest):
        carry, _ = some_steps(carry, rest)
    return carry[3]


def _draws(words, key, index, first, count):
    """`[B, count]` numbers of the environments `index`; a key each if they take keys."""
    if count is None:
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
    numbers = [random.uniform(words, index, first + i) for i in range(count)]
    return jnp.stack(numbers, axis=-1)


def _blocks(num_envs: int, num_devices: int, platform: str) -> tuple[int, int]:
    """Number of blocks, a multiple of the devices', and environments in each."""
    # On a CPU a block's state stays in the cache; an accelerator takes all at once.
    most = 2**31
    if platform == "cpu":
        most = 256 if CPU_FLAGS in os.environ.get("XLA_FLAGS", "") else 16_384
    on_device = -(-num_envs // num_devices)
    blocks = -(-on_device // most)
    return blocks * num_devices, -(-on_device // blocks)
