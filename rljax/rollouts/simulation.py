"""Steps by the thousand million: lanes in blocks that stay in cache, on every device.

`rollout.unroll` collects what a learner learns from; here only totals are kept, so that
very many lanes and steps fit, and a step costs little more than its physics.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.envs.vector import choose, draw_reset, draw_step, reset_drawn, step_drawn
from rljax.numerics import random
from rljax.numerics.sharding import split

CPU_FLAGS = (
    "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true,"
    "xla_cpu_small_while_loop_byte_threshold=1000000"
)
"""With these in the environment's `XLA_FLAGS` when JAX starts, XLA makes one kernel of all
steps of a block of lanes: on a CPU more than twice as fast. Accelerators need none."""


class Totals(NamedTuple):
    """What the steps of `B` lanes came to, for each lane.

    Attributes:
        reward: float32 `[B]`, the sum of all rewards.
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
    """Starts `num_envs` lanes, and steps each `num_steps` times, episode after episode.

    A lane's numbers do not depend on how many lanes or devices there are. Compiled
    here, once for an environment, `act`, and sizes.

    Args:
        key: consumed.
        env: the environment; hashable.
        params: its parameters.
        act: `(policy, observation, uniform) -> action` over all lanes of a block at
            once; `uniform` is float32 `[B]` in [0, 1), new in each step, to draw by.
        policy: what `act` is given first: a pytree, of a network's params, say.
        num_envs: number of lanes B.
        num_steps: steps of each.
        devices: where; by default on all devices.

    Returns:
        The totals of each lane.

    Raises:
        ValueError: no lane, or no step, is asked for, or too many.
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
        first = jax.random.bits(start_key, (2,))
        step_keys = jax.random.bits(steps_key, (num_steps, 2))
        simulated = functools.partial(_simulate_block, env, act, size)

        def on_device(lanes, first, step_keys, key, params, policy):
            return jax.lax.map(
                lambda lane: simulated(lane, first, step_keys, key, params, policy),
                lanes,
            )

        lanes = jnp.arange(num_blocks, dtype=jnp.uint32) * size
        axes = (0, None, None, None, None, None)
        on_devices = split(on_device, axes, devices, "lanes")
        totals = on_devices(lanes, first, step_keys, key, params, policy)
        return jax.tree.map(lambda x: x.reshape(-1)[:num_envs], totals)

    return jax.jit(run, compiler_options=_compiler_options(devices[0].platform))


def _simulate_block(env, act, size, lane, first, step_keys, key, params, policy):
    """The totals of lanes `lane` to `lane + size`."""
    lanes = lane + jnp.arange(size, dtype=jnp.uint32)

    def one_step(carry, step_key):
        key, state, observation, totals = carry
        key, drawn_key, reset_key = jax.random.split(key, 3)
        action = act(policy, observation, random.uniform(step_key, lanes, 0))
        after, timestep = _step(env, state, action, params, step_key, lanes, drawn_key)
        done = timestep.terminated | timestep.truncated
        fresh = _reset(env, params, step_key, lanes, reset_key)
        state, observation = choose(done, fresh, (after, timestep.observation))
        totals = Totals(totals.reward + timestep.reward, totals.episodes + done)
        return (key, state, observation, totals), None

    key = jax.random.fold_in(key, lane)
    key, reset_key = jax.random.split(key)
    state, observation = _reset(env, params, first, lanes, reset_key)
    nothing = Totals(jnp.zeros(size, jnp.float32), jnp.zeros(size, jnp.int32))
    carry = key, state, observation, nothing
    return jax.lax.scan(one_step, carry, step_keys)[0][3]


def _reset(env, params, step_key, lanes, key):
    """Fresh states and observations; `key` is for environments that draw themselves."""
    if hasattr(env, "reset_from_noise"):
        drawn = _numbers(step_key, lanes, 1 + _step_noise(env), env.num_noise)
    else:
        drawn = draw_reset(key, env, lanes.shape[0])
    return reset_drawn(drawn, env, params)


def _step(env, state, action, params, step_key, lanes, key):
    """All lanes' next states and time steps; `key` as in `_reset`."""
    if hasattr(env, "step_from_noise"):
        drawn = _numbers(step_key, lanes, 1, _step_noise(env))
    else:
        drawn = draw_step(key, env, lanes.shape[0])
    return step_drawn(drawn, env, state, action, params)


def _step_noise(env):
    return env.step_noise if hasattr(env, "step_from_noise") else 0


def _numbers(step_key, lanes, first, count):
    """`[B, count]`; 0 is the policy's number, then come the step's and the reset's."""
    numbers = [random.uniform(step_key, lanes, first + i) for i in range(count)]
    return jnp.stack(numbers, axis=-1)


def _blocks(num_envs: int, num_devices: int, platform: str) -> tuple[int, int]:
    """How many blocks of how many lanes; the number is a multiple of the devices'."""
    # On a CPU a block's state stays in the cache; an accelerator wants all lanes at once.
    most = 2**31
    if platform == "cpu":
        most = 256 if CPU_FLAGS in os.environ.get("XLA_FLAGS", "") else 16_384
    on_device = -(-num_envs // num_devices)
    blocks = -(-on_device // most)
    return blocks * num_devices, -(-on_device // blocks)


def _compiler_options(platform: str) -> dict[str, Any] | None:
    # XLA would use half the width of the vectors of a CPU that has wide ones.
    return {"xla_cpu_prefer_vector_width": 512} if platform == "cpu" else None
