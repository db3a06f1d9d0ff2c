"""What programs for accelerators are written with: shapes, steps of learners, sweeps."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.sweeps.population_run import PopulationRunner
from rljax.sweeps.problem import group
from rljax.training.loop import metric_shapes, updates_program


class Program(NamedTuple):
    """A function, jitted or not, and its arguments, of which shapes are enough."""

    function: Any
    args: tuple[Any, ...]


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


ints = functools.partial(shape, dtype=jnp.int32)
KEY = jax.eval_shape(jax.random.key, 0)
KEYS = jax.eval_shape(lambda: jax.random.split(jax.random.key(0)))
SEEDS = 2


def step_of(algorithm, hyperparams, task, key=KEY):
    """One update; `train` takes many in a loop, see `updates_of`."""
    state = jax.eval_shape(algorithm.init, key, hyperparams, task)
    return Program(algorithm.step, (state, task))


def updates_of(algorithm, hyperparams, task, key=KEY):
    """What `train` compiles."""
    state = jax.eval_shape(algorithm.init, key, hyperparams, task)
    pooled = metric_shapes(algorithm, state, task)
    return Program(updates_program(), (algorithm, state, task, ints(), pooled))


def sweep_of(problem, points, *, updates=True):
    """A population's update, if wanted, and its evaluation, split over all devices."""
    (points,) = group(problem, points)
    keys = jax.random.split(jax.random.key(0), SEEDS)
    runner = PopulationRunner(problem, points, keys, keys[0], np.array([0.0, 1.0]))
    rows = np.repeat(np.arange(len(points.points)), SEEDS)
    # At most eight members a device: more are computed in blocks, on a CPU alone.
    hyperparams = jax.tree.map(lambda x: x[rows], points.hyperparams)
    task = points.task
    if points.swept_task:
        task = jax.tree.map(lambda x: x[rows], task)
    members = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), len(rows)))
    state = jax.eval_shape(runner._agents.init, members, hyperparams, task)

    def both(state, task, keys):
        return runner._agents.step(state, task), runner._test(state, task, keys)

    return Program(both if updates else runner._test, (state, task, members))
