"""Many runs in one compiled program."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from rljax.base import Algorithm, State


@functools.cache
def population(algorithm: Algorithm[State], task_axes: Any = None) -> Algorithm[State]:
    """Lifts an algorithm over a leading axis of keys and hyperparameters: a population.

    Args:
        algorithm: what every member runs.
        task_axes: which leaves of the task have a leading axis over the members, as
            `jax.vmap` takes it: 0 if all have, None if none has, or a hashable pytree
            of 0 and None to sweep some of an environment's parameters.

    Returns:
        An algorithm whose `init` takes `[N]` keys and hyperparameters with leaves `[N]`,
        and whose states and metrics have a leading axis N.
    """
    return Algorithm(
        init=jax.vmap(algorithm.init, in_axes=(0, 0, task_axes)),
        step=jax.vmap(algorithm.step, in_axes=(0, task_axes)),
    )


def replicate(hyperparams: Any, num_members: int) -> Any:
    """Gives all members the same hyperparameters: scalars become float32 `[N]`."""
    return jax.tree.map(lambda x: jnp.full(num_members, x, jnp.float32), hyperparams)


def member(tree: Any, index: int) -> Any:
    """One member of a population's state, or of anything stacked like it."""
    return jax.tree.map(lambda x: x[index], tree)
