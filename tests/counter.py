"""The smallest learner: adds random numbers. Compiles at once."""

import jax
import jax.numpy as jnp
from flax import struct

from rljax.base import Algorithm, Mean

TRACES = []


class CounterState(struct.PyTreeNode):
    key: jax.Array
    step: jax.Array
    total: jax.Array


def init(key, hyperparams, task):
    del task
    return CounterState(key, jnp.int32(0), jnp.float32(hyperparams))


def step(state, task):
    TRACES.append(1)
    key, draw_key = jax.random.split(state.key)
    total = state.total + task * jax.random.uniform(draw_key, (), jnp.float32)
    even = state.step % 2 == 0
    metrics = {
        "step_taken": Mean(state.step.astype(jnp.float32), jnp.float32(1)),
        "even_steps": Mean(
            jnp.where(even, state.step, 0).astype(jnp.float32), jnp.float32(even)
        ),
        "never": Mean(jnp.float32(0), jnp.float32(0)),
    }
    return state.replace(key=key, step=state.step + 1, total=total), metrics


COUNTER = Algorithm(init, step)


def start(seed=0):
    return init(jax.random.key(seed), 0.0, None)
