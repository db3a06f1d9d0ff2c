"""PPO on every kind of space that an environment may have: probes that need the part."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pendulum
import probes
import pytest

import rljax
from rljax.algorithms.distributions import Categorical
from rljax.algorithms.networks import ActorCritic, NormalActorCritic, make_network
from rljax.algorithms.ppo import PPOConfig, PPOHyperparams, act, ppo
from rljax.envs.spaces import Box, Discrete, MultiDiscrete
from rljax.training.loop import train

CONFIG = PPOConfig(num_envs=32, num_steps=10, num_epochs=4, num_minibatches=2)
FAST = PPOHyperparams(learning_rate=3e-3, gamma=0.5, gae_lambda=0.9)


@dataclasses.dataclass(frozen=True)
class Seen(probes.RewardFromBoth):
    """RewardFromBoth, whose cue is shown in another space."""

    space: object = Discrete(2)

    def observe(self, state):
        high = (state.cue > 0).astype(jnp.int32)
        if isinstance(self.space, Discrete):
            return high
        if isinstance(self.space, MultiDiscrete):
            return jnp.stack([high, 2 * high])
        if self.space == "dict":
            return {
                "a": state.cue[None],
                "b": {"c": jnp.zeros((2, 2), jnp.float32), "d": high},
            }
        shade = jnp.asarray(255 * high, self.space.dtype)
        return jnp.full(self.space.shape, shade)

    def observation_space(self, params):
        if self.space == "dict":
            box = Box(-1.0, 1.0, (1,))
            return {"a": box, "b": {"c": Box(0.0, 1.0, (2, 2)), "d": Discrete(2)}}
        return self.space


SPACES = {
    "discrete": Discrete(2),
    "multidiscrete": MultiDiscrete((2, 3)),
    "dict": "dict",
    "image": Box(0, 255, (8, 8, 1), np.uint8),
    "scalar": Box(0.0, 255.0, ()),
    "integers": Box(0, 255, (2,), np.int32),
}


@dataclasses.dataclass(frozen=True)
class Pair(probes.RewardFromBoth):
    """Two choices, of 2 and of 3; the right ones follow the cue."""

    def reward(self, state, action):
        high = (state.cue > 0).astype(jnp.int32)
        right = (action[0] == high) & (action[1] == 2 * high)
        return jnp.where(right, 1.0, -1.0)

    def action_space(self, params):
        return MultiDiscrete((2, 3))


@dataclasses.dataclass(frozen=True)
class Masked(probes.Probe):
    """Of 16 actions one is allowed, another with every cue: 1 for it, -1 for the rest."""

    def observe(self, state):
        return {"observation": state.cue[None], "action_mask": self.mask(state)}

    def mask(self, state):
        return jnp.arange(16) == jnp.where(state.cue > 0, 11, 4)

    def reward(self, state, action):
        return jnp.where(self.mask(state)[action], 1.0, -1.0)

    def observation_space(self, params):
        mask = Box(False, True, (16,), np.bool_)
        return {"observation": Box(-1.0, 1.0, (1,)), "action_mask": mask}

    def action_space(self, params):
        return Discrete(16)


def learned(env, updates, config=CONFIG, hyperparams=FAST, network=None):
    network = network or make_network(env, None, hidden=(16,))
    algorithm = ppo(env, network, config)
    state = jax.jit(algorithm.init)(jax.random.key(0), hyperparams, None)
    state = train(algorithm, state, None, updates)

    def play(observation, key):
        return act(network, state, observation, key, greedy=True)

    run = jax.jit(
        lambda key: rljax.evaluate(key, env, None, play, num_episodes=64, max_steps=9)
    )
    return float(run(jax.random.key(1)).returns.mean())


@pytest.mark.parametrize("name", sorted(set(SPACES) - {"image"}))
def test_it_learns_from_observations_of(name):
    env = Seen(SPACES[name])
    rljax.check_environment(env, None, jax.random.key(0), num_steps=4)
    assert learned(env, 60) > 0.9


def test_it_learns_several_choices_at_once():
    rljax.check_environment(Pair(), None, jax.random.key(0), num_steps=4)
    assert learned(Pair(), 100) > 0.9


def test_a_mask_leaves_only_what_is_allowed():
    rljax.check_environment(Masked(), None, jax.random.key(0), num_steps=4)
    assert learned(Masked(), 0) == 1.0


def test_without_its_mask_the_same_takes_learning():
    class Blind(ActorCritic):
        def policy(self, observation):
            return Categorical(self.actor(observation["observation"]))

    assert learned(Masked(), 0, network=Blind(16, (16,))) < 0.5


def test_it_learns_bounded_actions_and_keeps_the_bounds():
    @dataclasses.dataclass(frozen=True)
    class Bounded(probes.ContinuousTarget):
        """The best action lies on a bound, or near the other."""

        def reward(self, state, action):
            inside = (jnp.abs(action[0]) <= 0.5) * 1.0
            return inside - jnp.square(action[0] - jnp.where(state.cue > 0, 0.5, -0.3))

        def action_space(self, params):
            return Box(-0.5, 0.5, (1,))

    assert learned(Bounded(), 150) > 0.98


def test_it_learns_from_numbers_of_any_scale():
    @dataclasses.dataclass(frozen=True)
    class Huge(probes.RewardFromBoth):
        def reward(self, state, action):
            return 1e4 * super().reward(state, action)

        def observe(self, state):
            return 1e4 + 30 * state.cue[None]

        def observation_space(self, params):
            return Box(0.0, 1e5, (1,))

    both = dataclasses.replace(
        CONFIG, normalize_observations=True, normalize_rewards=True
    )
    assert learned(Huge(), 100, both) > 0.9e4
    assert learned(Huge(), 100) < 0.9e4


@pytest.mark.parametrize(
    ("env", "network", "words"),
    [
        (Seen(SPACES["dict"]), ActorCritic(2), r"observations, \{'a': 'float32\[1\]'"),
        (Seen(SPACES["scalar"]), ActorCritic(2), r"float32\[\] each.*make_network"),
        (probes.RewardFromBoth(), ActorCritic(3), "among 3 discrete actions"),
        (Pair(), ActorCritic(2), r"space is MultiDiscrete\(nvec=\(2, 3\)\)"),
        (pendulum.Pendulum(), NormalActorCritic(1), "from -inf to inf, but .*Box"),
        (
            pendulum.Pendulum(),
            NormalActorCritic(1, low=-2.5, high=2.0),
            "from -2.5 to 2, but",
        ),
        (pendulum.Pendulum(), NormalActorCritic(2), r"actions float32\[2\]"),
        (pendulum.Pendulum(), ActorCritic(2), "2 discrete actions, but"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(env, network, words):
    algorithm = ppo(env, network, CONFIG)
    task = pendulum.PendulumParams()
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(algorithm.init, jax.random.key(0), FAST, task)


@dataclasses.dataclass(frozen=True)
class Whole(probes.ContinuousTarget):
    def action_space(self, params):
        return Box(-3, 3, (1,), np.int32)


def test_whole_numbers_are_not_drawn_from_a_normal():
    algorithm = ppo(Whole(), NormalActorCritic(1), CONFIG)
    with pytest.raises(ValueError, match=r"actions float32\[1\], but .*int32"):
        jax.eval_shape(algorithm.init, jax.random.key(0), FAST, None)
    with pytest.raises(ValueError, match="whole numbers: MultiDiscrete"):
        make_network(Whole(), None)


def test_bounds_on_one_side_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Half(probes.ContinuousTarget):
        def action_space(self, params):
            return Box(0.0, np.inf, (1,))

    with pytest.raises(ValueError, match="bounds on all sides or on none"):
        make_network(Half(), None)
