"""The three auto-reset modes against Gymnasium's SyncVectorEnv, teacher-forced.

Before each step the reference gets our states, and what it resets to is what we reset to;
all else it works out by itself.
"""

import jax
import numpy as np
import pytest

from rljax.envs import CartPole, CartPoleParams, Thermostat, ThermostatParams
from rljax.envs.vector import VectorEnv

gymnasium = pytest.importorskip("gymnasium")
from gymnasium.envs.classic_control import CartPoleEnv  # noqa: E402
from gymnasium.vector import AutoresetMode, SyncVectorEnv  # noqa: E402

from rljax.interop.gymnasium import GymnasiumVectorEnv  # noqa: E402

NUM_ENVS, LIMIT = 8, 10


class ReferenceCartPole(CartPoleEnv):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.put(self.next_start)
        return np.array(self.state, np.float32), {}

    def put(self, state):
        self.state = tuple(
            float(getattr(state, name)) for name in ("x", "x_dot", "theta", "theta_dot")
        )


class ReferenceThermostat(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.put(self.next_start)
        return self.observe(), {}

    def step(self, action):
        self.temperature += action - 0.02 * (self.temperature - 50)
        reward = float(68 <= self.temperature <= 72)
        return self.observe(), reward, False, False, {}

    def observe(self):
        return np.array([(self.temperature - 70) / 10], np.float32)

    def put(self, state):
        self.temperature = float(state.temperature)


CASES = {
    "cartpole": (CartPole(), CartPoleParams(max_steps=LIMIT), ReferenceCartPole),
    "thermostat": (Thermostat(), ThermostatParams(max_steps=LIMIT), ReferenceThermostat),
}  # fmt: skip


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("name", CASES)
def test_every_step_is_that_of_sync_vector_env(name, mode):
    env, params, reference = CASES[name]
    ours = GymnasiumVectorEnv(env, params, NUM_ENVS, autoreset_mode=mode)

    def make():
        return gymnasium.wrappers.TimeLimit(reference(), max_episode_steps=LIMIT)

    theirs = SyncVectorEnv([make] * NUM_ENVS, autoreset_mode=mode)
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    assert ours.action_space == theirs.action_space
    # Ours and theirs differ in the derived spaces only by the thresholds' rounding.
    assert ours.observation_space.shape == theirs.observation_space.shape

    observation, info = ours.reset(seed=3)
    tell(ours, theirs, "next_start")
    assert_same((observation, info), theirs.reset(seed=3))
    random = np.random.default_rng(0)
    endings = {"terminated": 0, "truncated": 0, "both": 0}
    for _ in range(150):
        actions = random.integers(0, 2, NUM_ENVS)
        actions[:4] = 1  # which makes a cart fall at about the limit
        if name == "cartpole":  # and these balance
            actions[6:] = observation[6:] @ [0.1, 0.5, 1.0, 1.0] > 0
        tell(ours, theirs, "put")
        step = ours.step(actions)
        tell(ours, theirs, "next_start")
        assert_same(step, theirs.step(actions))
        observation, _, terminated, truncated, _ = step
        endings["terminated"] += (terminated & ~truncated).sum()
        endings["truncated"] += (truncated & ~terminated).sum()
        endings["both"] += (terminated & truncated).sum()
        done = terminated | truncated
        if mode == AutoresetMode.DISABLED and done.any():
            with pytest.raises(gymnasium.error.ResetNeeded, match="are over"):
                ours.step(actions)
            observation, info = ours.reset(options={"reset_mask": done})
            tell(ours, theirs, "next_start")
            assert_same((observation, info), theirs.reset(options={"reset_mask": done}))
    if name == "cartpole":
        assert min(endings.values()) >= 5, endings
    else:
        assert endings["truncated"] >= 100, endings


def tell(ours, theirs, what):
    """Puts our states into the references, or tells them what to reset to."""
    states = jax.device_get(ours._envs.state)
    for index, one in enumerate(theirs.envs):
        state = jax.tree.map(lambda x, index=index: x[index], states)
        if what == "put":
            one.unwrapped.put(state)
        else:
            one.unwrapped.next_start = state


def assert_same(ours, theirs):
    for mine, yours in zip(ours[:-1], theirs[:-1], strict=True):
        assert mine.dtype == yours.dtype
        np.testing.assert_allclose(mine, yours, rtol=1e-5, atol=1e-5)
    mine, yours = ours[-1], theirs[-1]
    assert mine.keys() == yours.keys()
    for key in mine:
        if key != "final_obs":
            np.testing.assert_array_equal(mine[key], yours[key])
            continue
        for a, b in zip(mine[key], yours[key], strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("autoreset", ["next_step", "disabled"])
def test_no_action_is_taken_in_an_environment_that_is_done(autoreset):
    env, params = CartPole(), CartPoleParams(max_steps=3)
    now = VectorEnv(env).reset(jax.random.key(0), params, 4)
    step = jax.jit(
        lambda key, now, action: VectorEnv(env).step(
            key, params, now, action, autoreset=autoreset
        )
    )
    for t in range(3):
        now, seen, valid = step(jax.random.key(t), now, np.ones(4, int))
        assert valid.all()
    assert now.done.all()
    np.testing.assert_array_equal(now.episode_return, 3)
    after, idle, valid = step(jax.random.key(5), now, np.ones(4, int))
    assert not valid.any()
    for nothing in (idle.reward, idle.terminated, idle.truncated):
        assert not nothing.any()
    if autoreset == "disabled":
        np.testing.assert_array_equal(idle.observation, seen.observation)
        np.testing.assert_array_equal(after.episode_return, 3)
        after = VectorEnv(env).restart(
            jax.random.key(6), params, after, np.array([True, False, False, True])
        )
        np.testing.assert_array_equal(after.done, [False, True, True, False])
        np.testing.assert_array_equal(after.episode_length, [0, 3, 3, 0])
    else:
        assert not after.done.any()
        np.testing.assert_array_equal(after.state.time, 0)
        np.testing.assert_array_equal(after.episode_return, 0)


def test_another_mode_is_refused():
    env, params = CartPole(), CartPoleParams()
    now = VectorEnv(env).reset(jax.random.key(0), params, 1)
    with pytest.raises(ValueError, match="same_step, next_step, disabled, got 'never'"):
        VectorEnv(env).step(
            jax.random.key(1), params, now, np.ones(1, int), autoreset="never"
        )
