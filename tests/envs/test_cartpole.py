import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.make_cartpole import VARIANTS, fall_at_the_limit, play

from rljax.envs import CartPole, CartPoleParams
from rljax.envs.cartpole import CartPoleState
from rljax.envs.vector import VectorEnv
from rljax.rollouts.rollout import unroll

pytestmark = pytest.mark.optimized

ENV, PARAMS = CartPole(), CartPoleParams()
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "cartpole.json"
TOLERANCES = {np.float64: 1e-12, np.float32: 1e-6}

per_variant = pytest.mark.parametrize(
    ("semi_implicit", "plant"),
    VARIANTS,
    ids=["euler-default", "euler-altered", "semi-default", "semi-altered"],
)
per_integrator = pytest.mark.parametrize("semi_implicit", [False, True])
per_precision = pytest.mark.parametrize("dtype", TOLERANCES)


@pytest.fixture
def gymnasium():
    return pytest.importorskip("gymnasium")


@pytest.mark.some_cases(3)
@per_precision
@per_variant
def test_every_recorded_step_is_gymnasiums(semi_implicit, plant, dtype):
    episodes = [
        episode
        for episode in json.loads(GOLDEN.read_text())
        if (episode["semi_implicit"], episode["plant"]) == (semi_implicit, plant)
    ]
    assert_every_step_agrees(episodes, dtype)
    assert "balance" in {episode["policy"] for episode in episodes}
    assert any(episode["truncated"][-1] for episode in episodes)
    assert any(ends_both_ways(episode) for episode in episodes)


@pytest.mark.slow
@pytest.mark.usefixtures("gymnasium")
@per_variant
def test_every_step_of_1000_live_episodes_is_gymnasiums(semi_implicit, plant):
    def episodes(policy, seeds):
        return [play(semi_implicit, plant, policy, seed) for seed in seeds]

    balanced = episodes("balance", range(100, 225))
    fallen = episodes("random", range(1000, 1100))
    both_ways = [fall_at_the_limit(episode) for episode in fallen[:25]]
    ran_off = episodes("run left", range(5)) + episodes("run right", range(5))

    assert {len(episode["actions"]) for episode in balanced} == {500}
    assert all(ends_both_ways(episode) for episode in both_ways)
    assert all(abs(episode["states"][-1][0]) > 2.4 for episode in ran_off)
    for dtype in TOLERANCES:
        assert_every_step_agrees(balanced + fallen + both_ways + ran_off, dtype)


@pytest.mark.usefixtures("gymnasium")
@per_integrator
def test_changing_only_masspole_moves_the_derived_masses_too(semi_implicit):
    for masspole in (0.02, 0.5, 1.0):
        plant = {"masspole": masspole}
        episodes = [play(semi_implicit, plant, "random", seed) for seed in range(10)]
        assert_every_step_agrees(episodes, np.float64)


@pytest.mark.usefixtures("gymnasium")
@per_variant
def test_open_loop_stays_with_gymnasium_for_100_steps(semi_implicit, plant):
    episodes = [
        play(semi_implicit, plant, "balance", seed, max_steps=100) for seed in range(10)
    ]
    states = np.array([episode["states"] for episode in episodes])
    actions = np.array([episode["actions"] for episode in episodes])
    assert actions.shape == (10, 100)

    env, params = CartPole(semi_implicit), CartPoleParams(**plant)

    def step(state, action):
        state, _ = env.step(jax.random.key(0), state, action, params)
        return state, (state.x, state.x_dot, state.theta, state.theta_dot)

    def follow(first, actions):
        first = CartPoleState(*first, time=jnp.int32(0))
        return jnp.stack(jax.lax.scan(step, first, actions)[1], axis=-1)

    with jax.enable_x64(True):
        ours = np.asarray(jax.jit(jax.vmap(follow))(states[:, 0], actions))
    assert ours.dtype == np.float64
    assert np.abs(ours - states[:, 1:]).max() < 1e-10


@per_precision
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", ["x", "theta"])
def test_an_episode_ends_beyond_the_thresholds_but_not_on_them(name, sign, dtype):
    limit = {"x": PARAMS.x_threshold, "theta": PARAMS.theta_threshold_radians}[name]
    limit = sign * dtype(limit)
    beyond = np.nextafter(limit, sign * dtype(np.inf))
    with jax.enable_x64(dtype == np.float64):
        # At rest, so that explicit Euler leaves the position where it is.
        rest = CartPoleState(*jnp.zeros(4, dtype), time=jnp.int32(0))

        step = jax.jit(ENV.step)

        def terminated(position):
            state = rest.replace(**{name: jnp.asarray(position)})
            return step(jax.random.key(0), state, 1, PARAMS)[1].terminated

        assert not terminated(limit)
        assert terminated(beyond)


def test_only_the_clock_truncates():
    step = jax.jit(ENV.step)

    def truncated(time):
        state = CartPoleState(*np.zeros(4, np.float32), time=np.int32(time))
        return bool(step(jax.random.key(0), state, 1, PARAMS)[1].truncated)

    assert [truncated(time) for time in (0, 498, 499, 500)] == [
        False,
        False,
        True,
        True,
    ]


def test_start_states_are_uniform(key):
    keys = jax.random.split(key, 10_000)
    state, observation = jax.jit(jax.vmap(ENV.reset, in_axes=(0, None)))(keys, PARAMS)
    ours = np.asarray(observation, np.float64)
    assert not state.time.any()
    assert np.all(observation >= np.float32(-0.05))
    assert np.all(observation < np.float32(0.05))

    # A uniform variable of width w has variance w^2/12 and fourth moment w^4/80.
    width, n = 0.1, len(ours)
    mean_error = width * np.sqrt(1 / 12 / n)
    variance_error = width**2 * np.sqrt((1 / 80 - 1 / 144) / n)
    assert np.all(np.abs(ours.mean(axis=0)) < 5 * mean_error)
    assert np.all(np.abs(ours.var(axis=0) - width**2 / 12) < 5 * variance_error)
    correlation = np.corrcoef(ours, rowvar=False) - np.eye(4)
    assert np.all(np.abs(correlation) < 5 / np.sqrt(n))


def test_reset_is_reset_from_noise_drawn_with_the_same_key(key):
    noise = jax.random.uniform(jax.random.clone(key), (4,), jnp.float32)
    ours, theirs = ENV.reset(key, PARAMS), ENV.reset_from_noise(noise, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@per_precision
def test_the_observation_is_the_state_in_float32(dtype):
    values = np.array([0.1, -0.2, 0.03, 0.4], dtype)
    with jax.enable_x64(dtype == np.float64):
        state = CartPoleState(*jnp.asarray(values), time=jnp.int32(0))
        state, timestep = ENV.step(jax.random.key(0), state, 1, PARAMS)
    seen = np.array([state.x, state.x_dot, state.theta, state.theta_dot])
    assert seen.dtype == dtype
    assert timestep.observation.dtype == np.float32
    np.testing.assert_array_equal(timestep.observation, seen.astype(np.float32))


def test_spaces_are_gymnasiums(gymnasium):
    theirs = gymnasium.make("CartPole-v1")
    ours = ENV.observation_space(PARAMS)
    assert ours.shape == theirs.observation_space.shape
    assert ours.dtype == theirs.observation_space.dtype
    np.testing.assert_array_equal(ours.low, theirs.observation_space.low)
    np.testing.assert_array_equal(ours.high, theirs.observation_space.high)
    assert ENV.action_space(PARAMS).n == theirs.action_space.n


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("num_envs", [1, 7])
def test_an_environment_starts_the_same_however_many_there_are(num_envs):
    few, many = (
        VectorEnv(ENV).reset(jax.random.key(0), PARAMS, n) for n in (num_envs, 4096)
    )
    assert same_bits(few.observation, many.observation[:num_envs])
    assert same_bits(few.state.theta_dot, many.state.theta_dot[:num_envs])


def test_compiling_does_not_change_a_start_state():
    def first(key):
        return VectorEnv(ENV).reset(key, PARAMS, 4096).observation

    assert same_bits(first(jax.random.key(0)), jax.jit(first)(jax.random.key(0)))


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("num_envs", [1, 7])
def test_an_environment_restarts_the_same_however_many_there_are(num_envs):
    few, many = always_right(num_envs), always_right(4096)
    many = jax.tree.map(lambda x: x[:, :num_envs], many)
    np.testing.assert_array_equal(few.terminated, many.terminated)
    restarted = np.asarray(few.terminated[:-1])
    assert np.all(restarted.sum(axis=0) >= 3)
    assert same_bits(few.observation[1:][restarted], many.observation[1:][restarted])
    # Between restarts a batch of another size may round differently.
    np.testing.assert_allclose(few.observation, many.observation, atol=1e-5)


def test_a_batch_of_plants_is_each_plant_on_its_own():
    masspole = jnp.array([0.05, 0.1, 0.2, 0.4, 0.8])
    axes = CartPoleParams(*(None for _ in jax.tree.leaves(PARAMS)))
    state = CartPoleState(*jnp.array([0.1, -0.2, 0.1, 0.4]), time=jnp.int32(0))

    def step(params):
        return ENV.step(jax.random.key(0), state, 1, params)[1].observation

    together = jax.jit(jax.vmap(step, in_axes=(axes.replace(masspole=0),)))(
        PARAMS.replace(masspole=masspole)
    )
    step = jax.jit(step)
    alone = np.stack([step(PARAMS.replace(masspole=m)) for m in masspole.tolist()])
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    assert len(np.unique(alone[:, 3])) == len(masspole)


def assert_every_step_agrees(episodes, dtype):
    """Takes every step of one variant's episodes from Gymnasium's own state."""
    env = CartPole(semi_implicit=episodes[0]["semi_implicit"])
    params = CartPoleParams(**episodes[0]["plant"])

    def step(state, action, time, max_steps):
        state = CartPoleState(*state, time=time)
        here = params.replace(max_steps=max_steps)
        state, timestep = env.step(jax.random.key(0), state, action, here)
        values = jnp.stack([state.x, state.x_dot, state.theta, state.theta_dot])
        return values, timestep

    def join(name):
        return np.concatenate([episode[name] for episode in episodes])

    lengths = [len(episode["actions"]) for episode in episodes]
    before = np.concatenate([episode["states"][:-1] for episode in episodes])
    after = np.concatenate([episode["states"][1:] for episode in episodes])
    time = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    limits = [episode["max_steps"] for episode in episodes]
    max_steps = np.repeat(np.array(limits, np.int32), lengths)
    with jax.enable_x64(dtype == np.float64):
        values, timestep = jax.jit(jax.vmap(step))(
            before.astype(dtype), join("actions"), time, max_steps
        )
    values = np.asarray(values)
    assert values.dtype == dtype
    assert np.abs(values - after).max() < TOLERANCES[dtype]
    np.testing.assert_array_equal(timestep.reward, join("rewards"))
    np.testing.assert_array_equal(timestep.terminated, join("terminated"))
    np.testing.assert_array_equal(timestep.truncated, join("truncated"))


def ends_both_ways(episode):
    return episode["terminated"][-1] and episode["truncated"][-1]


def always_right(num_envs):
    def act(observation, key):
        del observation, key
        return jnp.ones(num_envs, jnp.int32), None

    start_key, key = jax.random.split(jax.random.key(0))
    envs = VectorEnv(ENV).reset(start_key, PARAMS, num_envs)
    return jax.jit(lambda key: unroll(key, ENV, PARAMS, envs, act, 40)[1])(key)


def same_bits(a, b):
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()
