import dataclasses
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pendulum import Pendulum, PendulumParams

from rljax.algorithms.networks import make_network
from rljax.base import TimeStep
from rljax.envs import CartPole, CartPoleParams, Thermostat, ThermostatParams
from rljax.envs.spaces import Box, Discrete, MultiDiscrete

gymnasium = pytest.importorskip("gymnasium")
from gymnasium.error import ResetNeeded  # noqa: E402
from gymnasium.utils.env_checker import check_env  # noqa: E402

from rljax.interop.gymnasium import GymnasiumEnv, GymnasiumVectorEnv  # noqa: E402
from rljax.report.gif import frame  # noqa: E402

CASES = [(CartPole(), CartPoleParams()), (Thermostat(), ThermostatParams())]
per_case = pytest.mark.parametrize(
    ("env", "params"), CASES, ids=["cartpole", "thermostat"]
)


@per_case
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_gymnasiums_own_checks_pass(env, params, render_mode):
    with warnings.catch_warnings():
        for about in (  # what the checker says of every environment of this kind
            ".*A Box observation space m(in|ax)imum value is -?infinity.*",
            ".*Not able to test alternative render modes.*",
        ):
            warnings.filterwarnings("ignore", about, UserWarning)
        check_env(GymnasiumEnv(env, params, render_mode=render_mode))


@pytest.mark.some_cases(1)
@per_case
def test_an_episode_is_the_environments_own(env, params):
    adapted = GymnasiumEnv(env, params)
    observation, info = adapted.reset(seed=7)
    assert info == {}
    state = adapted._state
    for t in range(5):
        key = jax.random.split(jax.random.clone(adapted._key))[1]
        expected_state, expected = env.step(key, state, t % 2, params)
        observation, reward, terminated, truncated, info = adapted.step(t % 2)
        np.testing.assert_allclose(observation, expected.observation, rtol=1e-6)
        assert reward == float(expected.reward)
        assert (terminated, truncated) == (False, False)
        assert (type(reward), type(terminated), info) == (float, bool, {})
        assert adapted.observation_space.contains(observation)
        state = expected_state


@per_case
def test_seeds_repeat_and_differ(env, params):
    def play(seed):
        adapted = GymnasiumEnv(env, params)
        first, _ = adapted.reset(seed=seed)
        second, _ = adapted.reset()
        return np.stack([first, second])

    np.testing.assert_array_equal(play(1), play(1))
    assert (play(1) != play(2)).any()
    assert (play(1)[0] != play(1)[1]).any()
    assert (play(None) != play(None)).any()


def test_a_vector_of_them_repeats_with_its_seed_and_its_environments_differ():
    def play(seed):
        many = GymnasiumVectorEnv(*CASES[0], 3)
        first, _ = many.reset(seed=seed)
        after = many.step(np.array([0, 1, 0]))[0]
        return np.stack([first, after])

    np.testing.assert_array_equal(play(1), play(1))
    assert (play(1) != play(2)).any()
    assert len(np.unique(play(1)[0, :, 0])) == 3


def test_what_it_returns_is_the_callers():
    many = GymnasiumVectorEnv(*CASES[0], 2)
    first, _ = many.reset(seed=0)
    kept = first.copy()
    first[:] = 100.0
    observation = many.step(np.array([0, 0]))[0]
    assert np.abs(observation).max() < 2
    assert np.abs(kept).max() < 2


@pytest.mark.parametrize("kind", [np.array, jnp.array, list])
def test_actions_may_be_of_jax_or_a_list(kind):
    many = GymnasiumVectorEnv(*CASES[0], 2)
    many.reset(seed=0)
    expected = GymnasiumVectorEnv(*CASES[0], 2)
    expected.reset(seed=0)
    np.testing.assert_array_equal(
        many.step(kind([0, 1]))[0], expected.step(np.array([0, 1]))[0]
    )
    if kind is not list:
        assert started().step(kind(1))[1] == 1.0


@per_case
def test_rendering_gives_pixels(env, params):
    adapted = GymnasiumEnv(env, params, render_mode="rgb_array")
    with pytest.raises(ResetNeeded, match="nothing to render"):
        adapted.render()
    adapted.reset(seed=0)
    first = adapted.render()
    adapted.step(1)
    second = adapted.render()
    assert first.dtype == np.uint8
    assert first.shape == second.shape
    assert first.shape[2] == 3
    assert (first != second).any()
    state = jax.device_get(adapted._state)
    np.testing.assert_array_equal(second, frame(env.draw(state, 1, params)))
    assert (second != frame(env.draw(state, 0, params))).any()
    assert GymnasiumEnv(env, params).render() is None


def test_a_vector_renders_each_lane():
    many = GymnasiumVectorEnv(*CASES[1], 2, render_mode="rgb_array")
    many.reset(seed=0)
    before = many.render()
    many.step(np.array([0, 1]))
    off, on = many.render()
    assert len(before) == 2
    assert (off != on).any()


def test_gymnasiums_wrappers_take_it():
    many = gymnasium.wrappers.vector.RecordEpisodeStatistics(
        GymnasiumVectorEnv(
            CartPole(), CartPoleParams(max_steps=5), 2, autoreset_mode="SameStep"
        )
    )
    many.reset(seed=0)
    for _ in range(5):
        *_, info = many.step(np.array([0, 1]))
    np.testing.assert_array_equal(info["episode"]["r"], 5)
    one = gymnasium.wrappers.RecordEpisodeStatistics(GymnasiumEnv(*CASES[0]))
    one.reset(seed=0)
    while True:
        *_, terminated, _, info = one.step(1)
        if terminated:
            break
    assert info["episode"]["l"] in (8, 9, 10, 11)


@dataclasses.dataclass(frozen=True)
class Nested:
    """Observations in a dict with a tuple; continuous actions in another."""

    def reset(self, key, params):
        x = jax.random.uniform(key, (2,))
        return x, self.observe(x)

    def step(self, key, state, action, params):
        state = state + action["push"]
        return state, TimeStep(
            self.observe(state), action["push"].sum(), jnp.bool_(False), state[0] > 3.0
        )

    def observe(self, x):
        return {"where": x, "parts": (x[:1], (x[1] > 1.0).astype(jnp.int32))}

    def observation_space(self, params):
        parts = (Box(-100.0, 100.0, (1,)), Discrete(2))
        return {"where": Box(-100.0, 100.0, (2,)), "parts": parts}

    def action_space(self, params):
        return {"push": Box(-1.0, 1.0, (2,))}


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_nested_spaces_and_continuous_actions(mode):
    adapted = GymnasiumEnv(Nested(), None)
    observation, _ = adapted.reset(seed=0)
    assert adapted.observation_space.contains(observation)
    observation, *_ = adapted.step(adapted.action_space.sample())
    assert adapted.observation_space.contains(observation)
    check_env(adapted, skip_render_check=True)

    many = GymnasiumVectorEnv(Nested(), None, 3, autoreset_mode=mode)
    many.reset(seed=0)
    push = {"push": np.ones((3, 2), np.float32)}
    for _ in range(4):
        observation, *_, info = many.step(push)
        assert many.observation_space.contains(observation)
        for index in np.flatnonzero(info.get("_final_obs", [])):
            assert many.single_observation_space.contains(info["final_obs"][index])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GymnasiumEnv(*CASES[0]).step(0), ResetNeeded, "Call reset"),
        (lambda: started().step(2), ValueError, r"Discrete\(2\), got 2"),
        (lambda: over().step(0), ResetNeeded, "the episode is over"),
        (lambda: GymnasiumEnv(*CASES[0], render_mode="human"), ValueError, "got 'human'"),
        (
            lambda: GymnasiumEnv(Nested(), None, render_mode="rgb_array"),
            ValueError,
            r"one of \[None\] for Nested",
        ),
        (lambda: GymnasiumVectorEnv(*CASES[0], 0), ValueError, "at least 1, got 0"),
        (
            lambda: GymnasiumVectorEnv(*CASES[0], 2, autoreset_mode="never"),
            ValueError,
            "one of NextStep, SameStep, Disabled, got 'never'",
        ),
        (
            lambda: GymnasiumVectorEnv(*CASES[0], 2).step(np.zeros(2, int)),
            ResetNeeded,
            "no episode was started",
        ),
        (
            lambda: GymnasiumVectorEnv(*CASES[0], 2).reset(seed=[1, 2, 3]),
            ValueError,
            r"for each of 2 environments, got \[1, 2, 3\]",
        ),
        (
            lambda: GymnasiumVectorEnv(*CASES[0], 2).reset(seed=[1, 2**40]),
            ValueError,
            r"in \[0, 2\*\*32\) for each",
        ),
        (
            lambda: GymnasiumVectorEnv(*CASES[0], 2).reset(seed="abc"),
            ValueError,
            "got 'abc'",
        ),
        (
            lambda: GymnasiumVectorEnv(*CASES[0], 2).reset(options={"masspole": 1}),
            ValueError,
            "only reset_mask of options, got masspole",
        ),
        (
            lambda: GymnasiumEnv(*CASES[0]).reset(options={"low": 0, "high": 1}),
            ValueError,
            "none of options, got high, low",
        ),
        (
            lambda: pendulum_env().step(np.array([2.27])),
            ValueError,
            "clip to its low and high",
        ),
        (
            lambda: GymnasiumVectorEnv(*CASES[0], 2).reset(
                options={"reset_mask": np.zeros(2, bool)}
            ),
            ValueError,
            "at least one True",
        ),
        (
            lambda: GymnasiumVectorEnv(*CASES[0], 2).reset(
                options={"reset_mask": np.ones(2, bool)}
            ),
            ResetNeeded,
            "without a mask",
        ),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, error, message):
    with pytest.raises(error, match=message):
        call()


class Pair(Nested):
    """Two choices at once, of which a mask says which there are."""

    def step(self, key, state, action, params):
        push = jnp.where(action == 1, 0.5, -0.5)
        return super().step(key, state, {"push": push}, params)

    def observe(self, x):
        return {"observation": x, "action_mask": jnp.array([True, True, False, True])}

    def observation_space(self, params):
        mask = Box(False, True, (4,), np.bool_)
        return {"observation": Box(-100.0, 100.0, (2,)), "action_mask": mask}

    def action_space(self, params):
        return MultiDiscrete((2, 2))


def test_several_choices_and_their_mask():
    adapted = GymnasiumEnv(Pair(), None)
    assert adapted.action_space == gymnasium.spaces.MultiDiscrete(
        [2, 2], dtype=np.int32
    )
    check_env(adapted, skip_render_check=True)
    observation, _ = adapted.reset(seed=0)
    mask = observation["action_mask"].astype(np.int8)
    action = adapted.action_space.sample(mask=(mask[:2], mask[2:]))
    before = observation["observation"]
    observation, *_ = adapted.step(action)
    moved = np.where(action == 1, 0.5, -0.5)
    np.testing.assert_allclose(observation["observation"], before + moved, rtol=1e-5)
    many = GymnasiumVectorEnv(Pair(), None, 3)
    many.reset(seed=0)
    observation, *_ = many.step(many.action_space.sample())
    assert many.observation_space.contains(observation)
    for kind in (np.int64, np.uint8, np.int32):
        adapted.step(np.array([0, 1], kind))
        many.step(np.array([[0, 1]] * 3, kind))
    for wrong in (np.array([0, 2]), np.array([0.0, 1.0]), np.array([0, 2**32])):
        with pytest.raises(ValueError, match="actions lie in"):
            adapted.step(wrong)
        with pytest.raises(ValueError, match="actions lie in"):
            many.step(np.stack([wrong] * 3))


def pendulum_env():
    adapted = GymnasiumEnv(Pendulum(), PendulumParams())
    adapted.reset(seed=0)
    return adapted


@pytest.mark.some_cases(2)
@pytest.mark.parametrize(
    "action", [np.array([0.5]), np.float32([0.5]), [0.5], np.array([1]), jnp.ones(1)]
)
def test_actions_may_be_of_any_precision(action):
    pendulum_env().step(action)
    many = GymnasiumVectorEnv(Pendulum(), PendulumParams(), 2)
    many.reset(seed=0)
    many.step(np.stack([np.asarray(action)] * 2))


@pytest.mark.slow
def test_our_own_policy_keeps_to_the_bounds_of_our_own_adapter():
    network = make_network(Pendulum(), PendulumParams(), hidden=(8,))
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 3)))
    wide = params | {"params": params["params"] | {"log_std": jnp.full(1, 3.0)}}
    many = GymnasiumVectorEnv(Pendulum(), PendulumParams(), 512)
    observation, _ = many.reset(seed=0)

    @jax.jit
    def act(observation, key):
        return network.apply(wide, observation, method="policy").sample(key)

    actions = act(observation, jax.random.key(1))
    assert float(jnp.abs(actions).max()) == 2.0
    many.step(actions)


def test_a_seed_for_each_environment():
    many = GymnasiumVectorEnv(*CASES[0], 3)
    first, _ = many.reset(seed=[1, 2, 1])
    np.testing.assert_array_equal(first[0], first[2])
    assert (first[0] != first[1]).any()
    other, _ = GymnasiumVectorEnv(*CASES[0], 3).reset(seed=np.array([2, 1, 7]))
    np.testing.assert_array_equal(first[:2], other[1::-1])
    after = many.step(np.array([0, 1, 0]))[0]
    again = GymnasiumVectorEnv(*CASES[0], 3)
    again.reset(seed=[1, 2, 1])
    np.testing.assert_array_equal(after, again.step(np.array([0, 1, 0]))[0])
    mask = np.array([True, False, False])
    partly, _ = many.reset(seed=[5, None, None], options={"reset_mask": mask})
    np.testing.assert_array_equal(partly[1:], after[1:])


@pytest.mark.slow
def test_processes_that_were_forked_are_refused_instead_of_hanging():
    code = """
import sys; sys.path.insert(0, "tests")
import gymnasium
from rljax import CartPole, CartPoleParams
from rljax.interop.gymnasium import GymnasiumEnv
make = lambda: GymnasiumEnv(CartPole(), CartPoleParams())
make().reset(seed=0)
envs = gymnasium.vector.AsyncVectorEnv([make, make], context="fork")
envs.reset(seed=0)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'AsyncVectorEnv(..., context="spawn")' in done.stderr


def started():
    adapted = GymnasiumEnv(*CASES[0])
    adapted.reset(seed=0)
    return adapted


def over():
    adapted = GymnasiumEnv(CartPole(), CartPoleParams(max_steps=1))
    adapted.reset(seed=0)
    adapted.step(0)
    return adapted
