import math

import chex
import counter
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from counter import COUNTER, CounterState

from rljax.algorithms.ppo import PPOConfig, PPOHyperparams
from rljax.base import Algorithm, Mean
from rljax.envs import CartPoleParams
from rljax.sweeps.points import LogUniform, OneOf, Uniform, grid, random_points
from rljax.training.loop import train
from rljax.training.populations import map_over_devices, population, replicate, stack


def test_one_parameter_of_the_task_is_swept_and_the_others_are_shared():
    """A learner that reads two of the plant's parameters."""

    def step(state, task):
        total = state.total + task.masspole + task.gravity
        state = state.replace(step=state.step + 1, total=total)
        return state, {"total": Mean(total, jnp.float32(1))}

    algorithm = Algorithm(counter.init, step)
    shared = CartPoleParams(*(None for _ in jax.tree.leaves(CartPoleParams())))
    many = population(algorithm, task_axes=shared.replace(masspole=0))
    task = CartPoleParams(masspole=jnp.float32([0.1, 0.2, 0.3]))
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


def test_stack_zips_and_fills_up():
    stacked = stack(CartPoleParams(), masspole=[0.1, 0.2], length=(0.5, 1))
    assert stacked.masspole.tolist() == pytest.approx([0.1, 0.2])
    assert stacked.length.tolist() == [0.5, 1.0]
    assert stacked.max_steps.tolist() == [500, 500]
    assert stacked.max_steps.dtype == jnp.int32
    assert stacked.gravity.dtype == jnp.float32


@pytest.mark.parametrize(
    ("numbers", "values", "match"),
    [
        (PPOHyperparams(), {"learning_rat": [1.0]}, "Did you mean learning_rate"),
        (PPOConfig(), {"num_envs": [1, 2]}, "PPOConfig, whose fields fix shapes"),
        (PPOHyperparams(), {"gamma": []}, "gamma needs at least one value"),
        (PPOHyperparams(), {"gamma": 0.9}, r"list of values, got 0.9. Write \[0.9\]"),
        (PPOHyperparams(), {"gamma": ["a"]}, "gamma must be numbers, got 'a'"),
        (PPOHyperparams(), {"gamma": [math.nan]}, "gamma must be numbers, got nan"),
        (PPOHyperparams(), {"gamma": {0.9}}, r"got {0.9}. Write \[0.1, 0.2\], say"),
        (PPOHyperparams(), {"gamma": [True]}, "gamma must be numbers, got True"),
        (PPOHyperparams(), {"gamma": [1e-50]}, "fit into float32, got 1e-50"),
        (PPOHyperparams(), {"gamma": [1e39]}, r"fit into float32, got 1e\+39"),
        (
            CartPoleParams(),
            {"max_steps": [2**32 + 5]},
            r"below 2\*\*31, got 4294967301",
        ),
        (CartPoleParams(), {"max_steps": [20.5]}, "whole numbers below .* got 20.5"),
        (PPOHyperparams(), {"gamma": [1], "ent_coef": [1, 2]}, "gamma: 1, ent_coef: 2"),
        (PPOHyperparams(), {}, "got none"),
    ],
)
def test_stack_refuses(numbers, values, match):
    with pytest.raises(ValueError, match=match):
        stack(numbers, **values)


def test_grid_is_the_product():
    points = grid(gamma=[0.9, 0.99], learning_rate=np.array([1e-3, 1e-2, 1e-1]))
    assert len(points) == 6
    assert points[1] == {"gamma": 0.9, "learning_rate": 1e-2}
    with pytest.raises(ValueError, match="at least one name"):
        grid()
    with pytest.raises(ValueError, match=r"such as \(64, 64\), got \[32\]"):
        grid(hidden=[[32]])
    with pytest.raises(ValueError, match=r"numbers such as \(64, 64\), got \(0.5,\)"):
        grid(hidden=[(0.5,)])
    with pytest.raises(ValueError, match="gamma needs at least one value"):
        grid(gamma=[])


def test_values_are_pythons_own_whatever_they_came_from():
    points = grid(
        num_envs=np.array([8]),
        gamma=jnp.array([0.5]),
        gae_lambda=np.array([0.25]),
        hidden=[(np.int64(8), 4)],
        normalize_advantages=[np.False_, True],
    )
    assert points[0] == {
        "num_envs": 8, "gamma": 0.5, "gae_lambda": 0.25, "hidden": (8, 4), "normalize_advantages": False
    }  # fmt: skip
    kinds = [type(x) for x in points[0].values()]
    assert kinds == [int, float, float, tuple, bool]
    assert type(points[0]["hidden"][0]) is int


def test_random_points_draws_from_each_space():
    spaces = {
        "gamma": Uniform(0.9, 1.0),
        "learning_rate": LogUniform(1e-5, 1e-1),
        "num_envs": OneOf((4, 8)),
    }
    points = random_points(2_000, seed=0, **spaces)
    assert points == random_points(2_000, seed=0, **spaces)
    assert points != random_points(2_000, seed=1, **spaces)
    columns = {name: np.array([point[name] for point in points]) for name in spaces}
    uniform = {
        "gamma": (columns["gamma"] - 0.9) / 0.1,
        "learning_rate": (np.log10(columns["learning_rate"]) + 5) / 4,
    }
    for numbers in uniform.values():
        assert scipy.stats.kstest(numbers, "uniform").pvalue > 1e-4
    assert abs((columns["num_envs"] == 4).mean() - 0.5) < 0.05
    assert isinstance(points[0]["num_envs"], int)


@pytest.mark.parametrize(
    "space",
    [LogUniform(0, 1), LogUniform(2, 1), Uniform(0, math.inf), OneOf(()), (0, 1)],
)
def test_random_points_refuses_a_space_that_holds_nothing(space):
    with pytest.raises(ValueError, match="gamma must be drawn from"):
        random_points(2, seed=0, gamma=space)


@pytest.mark.some_cases(2)
@pytest.mark.parametrize("count", [1, 7, 8, 11, 13, 16, 24])
def test_members_in_blocks_are_those_of_a_vmap(count):
    def one(x, shared, y):
        return {"sum": x + shared * y["a"], "x": x}

    axes, count = (0, None, 0), count * jax.device_count()
    x, y = jnp.arange(count, dtype=jnp.float32), {"a": jnp.arange(count) * 2.0}
    plain = jax.vmap(one, in_axes=axes)
    many = map_over_devices(plain, axes, tuple(jax.devices()))
    chex.assert_trees_all_equal(jax.jit(many)(x, 3.0, y), plain(x, 3.0, y))


def test_replicate_gives_every_member_each_scalar():
    tree = replicate({"a": 0.5, "b": 3}, 4)
    assert tree["a"].tolist() == [0.5] * 4
    assert {x.dtype for x in tree.values()} == {np.dtype("float32")}
