"""The smallest sweep: who climbs highest in eight updates is known. Compiles at once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct

from rljax.base import Algorithm, Mean
from rljax.sweeps.points import grid
from rljax.sweeps.problem import Problem


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A static configuration; only how many updates there are depends on it."""

    batch_size: int = 1

    def updates(self, total_steps):
        return total_steps // self.batch_size


@dataclasses.dataclass(frozen=True)
class Shape:
    """A network that changes nothing but the program."""

    width: int = 1


class Rate(struct.PyTreeNode):
    rate: float = 0.0


class Slope(struct.PyTreeNode):
    slope: float = 1.0


class Climber(struct.PyTreeNode):
    key: jax.Array
    step: jax.Array
    params: jax.Array
    hyperparams: Rate


@functools.cache
def climb(network, config):
    """Rises by its rate at every update, so that the best configuration is known."""

    def init(key, hyperparams, task):
        rate = jax.tree.map(jnp.float32, hyperparams)
        return Climber(key, jnp.int32(0), jnp.zeros(network.width, jnp.float32), rate)

    def step(state, task):
        params = state.params + state.hyperparams.rate * task.slope
        state = state.replace(step=state.step + 1, params=params)
        return state, {"height": Mean(params[0], jnp.float32(1))}

    return Algorithm(init, step)


CLIMB = Problem(
    algorithm=climb,
    evaluate=lambda network, state, task, key: state.params[0],
    network=Shape(),
    config=Sizes(),
    hyperparams=Rate(),
    task=Slope(),
    total_steps=8,
)
RATES = grid(rate=[0.3, 5.0, 1.0, 2.0, 0.1, 3.0, 4.0, 0.2])
