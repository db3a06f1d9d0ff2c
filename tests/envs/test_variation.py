"""One parameter set an environment, and one an episode, beside environments of their own."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import rljax
from rljax.algorithms import ppo
from rljax.algorithms.distributions import Categorical
from rljax.envs.variation import ParamsPerEnv, Randomized
from rljax.envs.vector import VectorEnv
from rljax.rollouts.rollout import evaluate
from rljax.sweeps import grid, make_problem, sweep
from rljax.training.populations import stack

LENGTHS = np.linspace(0.25, 1.0, 8).astype(np.float32)
EIGHT = ParamsPerEnv(stack(rljax.CartPoleParams(), length=LENGTHS))
ENV = rljax.CartPole()
TINY = rljax.PPOConfig(num_envs=8, num_steps=8, num_epochs=1, num_minibatches=1)


def push(observation, key):
    return (observation[:, 2] > 0).astype(jnp.int32)


def returns(params, num_episodes, index=slice(None)):
    run = functools.partial(
        evaluate, env=ENV, act=push, num_episodes=num_episodes, max_steps=300
    )
    return jax.jit(run)(jax.random.key(0), params=params).returns[index]


@pytest.mark.slow
def test_each_environment_has_its_own_parameters_in_an_evaluation():
    together = returns(EIGHT, 8)
    for i, length in enumerate(LENGTHS):
        alone = returns(rljax.CartPoleParams(length=float(length)), 8, i)
        assert together[i] == alone
    assert len(set(together.tolist())) > 3
    np.testing.assert_array_equal(returns(EIGHT, 24)[:8], together)


@pytest.mark.slow
def test_and_in_a_vector_through_resets():
    vector = VectorEnv(ENV)
    step = jax.jit(vector.step)
    envs = vector.reset(jax.random.key(0), EIGHT, 8)
    one = [VectorEnv(ENV).reset(jax.random.key(0), rljax.CartPoleParams(), 8)] * 2
    which = [rljax.CartPoleParams(length=float(LENGTHS[i])) for i in (0, 7)]
    for t in range(60):
        key = jax.random.key(t)
        envs, *_ = step(key, EIGHT, envs, jnp.ones(8, jnp.int32))
        for j, i in enumerate((0, 7)):
            one[j], *_ = step(
                jax.random.clone(key), which[j], one[j], jnp.ones(8, jnp.int32)
            )
            np.testing.assert_allclose(
                envs.observation[i], one[j].observation[i], atol=1e-5
            )


@pytest.mark.slow
def test_and_in_a_simulation_of_any_blocks():
    def fall(policy, observation, uniform):
        return jnp.ones(len(uniform), jnp.int32)

    totals = rljax.simulate(
        jax.random.key(0), ENV, EIGHT, fall, num_envs=16, num_steps=500
    )
    assert int(totals.episodes[0]) > int(totals.episodes[7])
    for i in (0, 7):
        alone = rljax.simulate(
            jax.random.key(0), ENV, rljax.CartPoleParams(length=float(LENGTHS[i])),
            fall, num_envs=16, num_steps=500,
        )  # fmt: skip
        assert totals.episodes[i] == alone.episodes[i]


@pytest.mark.slow
def test_and_in_a_learner_and_in_pictures():
    network = rljax.ActorCritic(2, hidden=(8,))
    learner = rljax.ppo(ENV, network, TINY)
    state = jax.jit(learner.init)(jax.random.key(0), rljax.PPOHyperparams(), EIGHT)
    assert int(rljax.train(learner, state, EIGHT, 2).step) == 2
    wrong = ParamsPerEnv(EIGHT.params.replace(tau=jnp.full(8, -1.0)))
    with pytest.raises(ValueError, match="tau must lie in"):
        rljax.train(learner, state, wrong, 1)
    from rljax.interop.gymnasium import GymnasiumVectorEnv

    adapted = GymnasiumVectorEnv(ENV, EIGHT, 8, render_mode="rgb_array")
    adapted.reset(seed=0)
    adapted.step(np.ones(8, np.int64))
    short, *_, long = adapted.render()
    assert short.shape != long.shape  # drawn to scale


@pytest.mark.slow
def test_a_sweep_and_the_adapter_give_what_environments_of_their_own_give():
    class Greedy(rljax.ActorCritic):
        """Pushes as `push` does, whatever it learns."""

        def policy(self, observation):
            learned = super().policy(observation).logits
            right = jnp.where(observation[..., 2] > 0, 50.0, -50.0)
            return Categorical(jnp.stack([-right, right], axis=-1) + 1e-3 * learned)

    def total(params, num_episodes):
        problem = make_problem(
            ppo, ENV, Greedy(2, hidden=(8,)), params, total_steps=64, config=TINY,
            num_episodes=num_episodes,
        )  # fmt: skip
        done = sweep(problem, grid(gamma=[0.9]), num_seeds=1, num_evaluations=1)
        return num_episodes * done.results.final[0, 0]

    first, second = (rljax.CartPoleParams(length=float(x)) for x in LENGTHS[:2])
    two = ParamsPerEnv(stack(rljax.CartPoleParams(), length=LENGTHS[:2]))
    # Episode i is the same however many there are: the first pole's 0, the second's 1.
    wanted = total(first, 1) + total(second, 2) - total(second, 1)
    assert total(two, 2) == wanted
    assert total(first, 2) != wanted != total(second, 2)

    from rljax.interop.gymnasium import GymnasiumVectorEnv

    together = GymnasiumVectorEnv(ENV, two, 2)
    alone = [
        GymnasiumVectorEnv(ENV, rljax.CartPoleParams(length=float(x)), 2)
        for x in LENGTHS[:2]
    ]
    for adapted in (together, *alone):
        adapted.reset(seed=0)
    for _ in range(30):
        observation, reward, terminated, *_ = together.step(np.ones(2, np.int64))
        for i, adapted in enumerate(alone):
            same = adapted.step(np.ones(2, np.int64))
            np.testing.assert_allclose(observation[i], same[0][i], atol=1e-5)
            assert (reward[i], terminated[i]) == (same[1][i], same[2][i])


@pytest.mark.some_cases(1)
@pytest.mark.parametrize(
    ("env", "params", "words"),
    [
        (ENV, rljax.CartPoleParams(length=LENGTHS), r"length of shape \(8,\): Cannot"),
        (
            rljax.Thermostat(),
            rljax.ThermostatParams(half_band=LENGTHS),
            r"half_band of shape \(8,\): rewards have the shape \(8, 8\)",
        ),
    ],
    ids=["other shapes", "broadcast"],
)
def test_rows_that_are_not_said_to_be_are_refused(env, params, words):
    words = f"{words}.* pass rljax.ParamsPerEnv"
    act = lambda o, key: jnp.zeros(len(o), jnp.int32)  # noqa: E731
    with pytest.raises(ValueError, match=words):
        evaluate(jax.random.key(0), env, params, act, num_episodes=8, max_steps=9)
    learner = rljax.ppo(env, rljax.ActorCritic(2), TINY)
    state = jax.eval_shape(
        learner.init, jax.random.key(0), rljax.PPOHyperparams(), params
    )
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(learner.step, state, params)


@pytest.mark.slow
def test_where_one_environment_is_meant_the_first_counts_or_it_is_refused(key):
    rljax.check_environment(ENV, EIGHT, key, num_steps=4)
    assert rljax.make_network(ENV, EIGHT) == rljax.ActorCritic(2)
    from rljax.interop.gymnasium import GymnasiumEnv

    with pytest.raises(ValueError, match="one environment, got a ParamsPerEnv"):
        GymnasiumEnv(ENV, EIGHT)


def test_unequal_rows_are_refused(key):
    params = stack(rljax.CartPoleParams(), length=LENGTHS)
    uneven = ParamsPerEnv(params.replace(gravity=params.gravity[:4]))
    with pytest.raises(ValueError, match="equally many rows, got 4, 8"):
        VectorEnv(ENV).reset(key, uneven, 8)


class Static(struct.PyTreeNode):
    """What params of other libraries have: a static field, nested ones, a bool."""

    speed: float = 1.0
    inner: dict = struct.field(
        default_factory=lambda: {"a": 2, "b": np.ones(3, np.int32)}
    )
    windy: bool = True
    size: int = struct.field(pytree_node=False, default=5)
    either: float | jax.Array = 3


def test_static_nested_and_bool_fields_are_stacked_as_they_are():
    found = stack(Static(), speed=[1.0, 2.0], either=[2.5, 3.5])
    assert found.size == 5
    assert found.inner["a"].tolist() == [2, 2]
    assert found.inner["a"].dtype == np.int32
    assert found.inner["b"].shape == (2, 3)
    assert found.windy.dtype == bool
    assert found.either.tolist() == [2.5, 3.5]
    with pytest.raises(ValueError, match="size is static"):
        stack(Static(), size=[1, 2])


@pytest.mark.slow
def test_a_wrapper_that_passes_everything_on_has_a_params_check_of_its_own_only(key):
    class Wrapper:
        def __init__(self, env):
            self.env = env

        def __getattr__(self, name):
            return getattr(self.env, name)

        def reset(self, key, params):
            return self.env.reset(key, params["inner"])

        def step(self, key, state, action, params):
            return self.env.step(key, state, action, params["inner"])

        def observation_space(self, params):
            return self.env.observation_space(params["inner"])

        def action_space(self, params):
            return self.env.action_space(params["inner"])

    env, params = Wrapper(ENV), {"inner": rljax.CartPoleParams()}
    rljax.check_environment(env, params, key, num_steps=9)
    learner = rljax.ppo(env, rljax.ActorCritic(2, hidden=(8,)), TINY)
    state = jax.jit(learner.init)(jax.random.key(1), rljax.PPOHyperparams(), params)
    assert int(rljax.train(learner, state, params, 1).step) == 1


def test_a_single_number_among_them_is_refused(key):
    params = ParamsPerEnv(rljax.CartPoleParams(length=LENGTHS))
    with pytest.raises(ValueError, match=r"the number 9.8. Use rljax.stack"):
        VectorEnv(ENV).reset(key, params, 8)


def any_length(key, params):
    return params.replace(length=jax.random.uniform(key, (), minval=0.25, maxval=1.0))


@pytest.mark.slow
def test_parameters_are_drawn_anew_at_every_reset(key):
    env, params = Randomized(ENV, any_length), rljax.CartPoleParams()
    rljax.check_environment(env, params, jax.random.key(1), num_steps=20)
    vector = VectorEnv(env)
    envs = vector.reset(key, params, 1000)
    lengths = np.asarray(envs.state.params.length)
    assert abs(lengths.mean() - 0.625) < 0.03
    assert len(np.unique(lengths)) > 990
    step = jax.jit(vector.step)
    for t in range(12):
        envs, timestep, _ = step(
            jax.random.key(t), params, envs, jnp.ones(1000, jnp.int32)
        )
        changed = np.asarray(envs.state.params.length) != lengths
        np.testing.assert_array_equal(changed, timestep.terminated)
        lengths = np.asarray(envs.state.params.length)
    assert changed.any()


@pytest.mark.slow
def test_drawn_parameters_count_in_an_evaluation_and_in_the_adapter():
    def short(key, params):
        return params.replace(length=jnp.float32(0.25))

    play = functools.partial(evaluate, act=push, num_episodes=64, max_steps=300)
    drawn, own, long = (
        jax.jit(functools.partial(play, env=env, params=params))(jax.random.key(0))
        for env, params in (
            (Randomized(ENV, short), rljax.CartPoleParams()),
            (ENV, rljax.CartPoleParams(length=0.25)),
            (ENV, rljax.CartPoleParams(length=2.0)),
        )
    )
    error = np.asarray(own.returns).std() / 8
    assert abs(drawn.returns.mean() - own.returns.mean()) < 4 * error
    assert abs(drawn.returns.mean() - long.returns.mean()) > 4 * error

    from rljax.interop.gymnasium import GymnasiumEnv

    adapted = GymnasiumEnv(Randomized(ENV, any_length), rljax.CartPoleParams())
    lengths = set()
    for seed in range(3):
        adapted.reset(seed=seed)
        lengths.add(float(adapted._state.params.length))
        adapted.step(1)
        assert float(adapted._state.params.length) in lengths
    assert len(lengths) == 3


class Room(NamedTuple):
    """Parameters that are no dataclass, have an array in them, and no max_steps."""

    bonus: float = 1
    table: tuple = (0.0, 1.0)


class Bonus(rljax.Thermostat):
    def reset(self, key, params):
        return super().reset(key, rljax.ThermostatParams(max_steps=5))

    def step(self, key, state, action, params):
        bonus, table = params if isinstance(params, tuple) else params.values()
        state, timestep = super().step(
            key, state, action, rljax.ThermostatParams(max_steps=5)
        )
        return state, timestep._replace(
            reward=jnp.float32(bonus) + jnp.asarray(table)[1]
        )

    def observation_space(self, params):
        return rljax.Box(-np.inf, np.inf, (1,))

    check_params = None


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [
        pytest.param(Room(), id="tuple", marks=pytest.mark.slow),
        pytest.param({"bonus": 1.0, "table": np.float32([0, 1])}, id="dict"),
    ],
)
def test_a_sweep_takes_parameters_of_any_kind(task, tmp_path):
    network = rljax.ActorCritic(2, hidden=(8,))
    about = {"total_steps": 128, "config": TINY, "num_episodes": 4}
    with pytest.raises(ValueError, match=r"has no max_steps. Give max_steps="):
        make_problem(ppo, Bonus(), network, task, **about)
    problem = make_problem(ppo, Bonus(), network, task, **about, max_steps=5)
    done = sweep(
        problem, grid(bonus=[0.5, 2.0]), num_seeds=1, folder=str(tmp_path / "sweep")
    )
    np.testing.assert_allclose(done.results.final, [[7.5], [15.0]])
