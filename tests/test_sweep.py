import chex
import counter
import jax
import jax.numpy as jnp
import numpy as np
from counter import COUNTER, CounterState

from rljax.base import Algorithm, Mean
from rljax.envs import CartPoleParams
from rljax.sweep import population, replicate
from rljax.train import train


def test_one_parameter_of_the_task_is_swept_and_the_others_are_shared():
    """A learner that reads two of the plant's parameters."""

    def step(state, task):
        total = state.total + task.masspole + task.gravity
        state = state.replace(step=state.step + 1, total=total)
        return state, {"total": Mean(total, jnp.float32(1))}

    algorithm = Algorithm(counter.init, step)
    shared = CartPoleParams(*(None for _ in jax.tree.leaves(CartPoleParams())))
    many = population(algorithm, task_axes=shared.replace(masspole=0))
    task = CartPoleParams(masspole=jnp.array([0.1, 0.2, 0.3]))
    keys = jax.random.split(jax.random.key(0), 3)
    states = train(many, many.init(keys, jnp.zeros(3), task), task, 2)
    np.testing.assert_allclose(states.total, 2 * (9.8 + task.masspole), rtol=1e-6)


def test_a_population_is_made_once():
    assert population(COUNTER) is population(COUNTER)


def test_members_given_the_same_hyperparameters_and_keys_are_the_same():
    keys = jnp.broadcast_to(jax.random.key(3), (2,))
    many = population(COUNTER)
    states = train(many, many.init(keys, jnp.zeros(2), 1.0), 1.0, 3)
    assert isinstance(states, CounterState)
    chex.assert_trees_all_equal(states.total[0], states.total[1])


def test_replicate_gives_every_member_each_scalar():
    tree = replicate({"a": 0.5, "b": 3}, 4)
    assert tree["a"].tolist() == [0.5] * 4
    assert {x.dtype for x in tree.values()} == {np.dtype("float32")}
