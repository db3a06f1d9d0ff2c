"""PPO on every kind of space that an environment may have: probes that need the part."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pendulum
import probes
import pytest
from flax import struct

import rljax
from rljax.algorithms import ppo as ppo_module
from rljax.algorithms.distributions import Categorical
from rljax.algorithms.networks import ActorCritic, NormalActorCritic, make_network
from rljax.algorithms.ppo import PPOConfig, PPOHyperparams, act, ppo
from rljax.base import TimeStep
from rljax.envs.spaces import Box, Discrete, MultiDiscrete
from rljax.sweeps import grid, make_problem, sweep
from rljax.training.loop import train

CONFIG = PPOConfig(num_envs=32, num_steps=10, num_epochs=4, num_minibatches=2)
GRID = dataclasses.replace(CONFIG, num_steps=40)
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
        if isinstance(self.space, tuple):
            return high, jnp.zeros(2, jnp.float32)
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
    "tuple": (Discrete(2), Box(-1.0, 1.0, (2,))),
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


def learned(env, updates, config=CONFIG, hyperparams=FAST, network=None, max_steps=9):
    network = network or make_network(env, None, hidden=(16,))
    algorithm = ppo(env, network, config)
    state = jax.jit(algorithm.init)(jax.random.key(0), hyperparams, None)
    state = train(algorithm, state, None, updates)

    def play(observation, key):
        return act(network, state, observation, key, greedy=True)

    run = jax.jit(
        lambda key: rljax.evaluate(
            key, env, None, play, num_episodes=64, max_steps=max_steps
        )
    )
    return float(run(jax.random.key(1)).returns.mean())


SLOW = {
    "multidiscrete",
    "scalar",
    "integers",
    "tuple",
}  # the others have all that is in these


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
        for name in sorted(set(SPACES) - {"image"})
    ],
)
def test_it_learns_from_observations_of(name):
    env = Seen(SPACES[name])
    rljax.check_environment(env, None, jax.random.key(0), num_steps=4)
    assert learned(env, 60) > 0.9


@pytest.mark.slow
def test_it_learns_several_choices_at_once():
    rljax.check_environment(Pair(), None, jax.random.key(0), num_steps=4)
    assert learned(Pair(), 100) > 0.9


@pytest.mark.slow
def test_a_mask_leaves_only_what_is_allowed():
    rljax.check_environment(Masked(), None, jax.random.key(0), num_steps=4)
    assert learned(Masked(), 0) == 1.0


class Blind(ActorCritic):
    """Does not look at the mask."""

    def policy(self, observation):
        return Categorical(self.actor(observation["observation"]))


class GridState(struct.PyTreeNode):
    place: jax.Array  # int32 [2], row and column
    is_open: jax.Array  # bool [4], doors: up, down, left, right
    time: jax.Array


@dataclasses.dataclass(frozen=True)
class Grid:
    """4 x 4 rooms, whose doors are locked at random at every step; the far corner pays 1.

    The mask shows which are open. Trying another ends the episode.
    """

    def reset(self, key, params):
        place = jnp.zeros(2, jnp.int32)
        state = GridState(place, self.doors(key, place), jnp.int32(0))
        return state, self.observe(state)

    def step(self, key, state, action, params):
        good = state.is_open[action]
        place = state.place + jnp.where(good, jnp.asarray(MOVES)[action], 0)
        state = GridState(place, self.doors(key, place), state.time + 1)
        there = (place == 3).all()
        step = TimeStep(
            self.observe(state), jnp.float32(there), there | ~good, state.time >= 50
        )
        return state, step

    def doors(self, key, place):
        rooms = place[None] + MOVES
        inside = ((rooms >= 0) & (rooms < 4)).all(axis=1)
        unlocked = inside & jax.random.bernoulli(key, 0.5, (4,))
        return jnp.where(unlocked.any(), unlocked, inside)

    def observe(self, state):
        room = jax.nn.one_hot(state.place @ jnp.array([4, 1]), 16, dtype=jnp.float32)
        return {"observation": room, "action_mask": state.is_open}

    def observation_space(self, params):
        mask = Box(False, True, (4,), np.bool_)
        return {"observation": Box(0.0, 1.0, (16,)), "action_mask": mask}

    def action_space(self, params):
        return Discrete(4)


MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]], np.int32)


@pytest.mark.slow
@pytest.mark.parametrize("blind", [False, True])
def test_a_grid_is_learned_with_its_mask_and_not_without(blind):
    rljax.check_environment(Grid(), None, jax.random.key(0), num_steps=4)
    network = Blind(4, (16,)) if blind else None
    hyperparams = FAST.replace(gamma=0.95)
    found = learned(Grid(), 40, GRID, hyperparams, network, max_steps=50)
    assert found < 0.3 if blind else found > 0.95


class ObliviousPair(Pair):
    """Pair, whose mask of each choice allows the right one."""

    def observe(self, state):
        high = (state.cue > 0).astype(jnp.int32)
        first, second = jnp.arange(2) == high, jnp.arange(3) == 2 * high
        mask = jnp.concatenate([first, second])
        return {"observation": jnp.zeros(1, jnp.float32), "action_mask": mask}

    def observation_space(self, params):
        mask = Box(False, True, (5,), np.bool_)
        return {"observation": Box(0.0, 1.0, (1,)), "action_mask": mask}


@pytest.mark.slow
def test_a_mask_has_a_part_for_each_of_several_choices():
    env = ObliviousPair()
    rljax.check_environment(env, None, jax.random.key(0), num_steps=4)
    assert learned(env, 0) == 1.0


@dataclasses.dataclass(frozen=True)
class Named(Pair):
    """Pair, whose actions are a dictionary."""

    def reward(self, state, action):
        return super().reward(state, (action["one"], action["two"]))

    def action_space(self, params):
        return {"one": Discrete(2), "two": Discrete(3)}


class NamedChoices(NamedTuple):
    """A user's own distribution over dictionaries."""

    one: Categorical
    two: Categorical

    def both(self, of):
        return {name: of(getattr(self, name)) for name in ("one", "two")}

    def noise(self, key):
        return {
            "one": self.one.noise(key),
            "two": self.two.noise(jax.random.clone(key)),
        }

    def sample_from(self, noise):
        return {name: getattr(self, name).sample_from(noise[name]) for name in noise}

    def sample(self, key):
        return self.sample_from(self.noise(key))

    def mode(self):
        return self.both(lambda x: x.mode())

    def log_prob(self, action):
        return self.one.log_prob(action["one"]) + self.two.log_prob(action["two"])

    def entropy(self):
        return self.one.entropy() + self.two.entropy()


class NamedActorCritic(ActorCritic):
    def policy(self, observation):
        logits = self.actor(observation)
        return NamedChoices(Categorical(logits[..., :2]), Categorical(logits[..., 2:5]))


@pytest.mark.slow
def test_actions_of_a_dictionary_are_learned_with_a_policy_of_ones_own():
    rljax.check_environment(Named(), None, jax.random.key(0), num_steps=4)
    assert learned(Named(), 60, network=NamedActorCritic(5, (16,))) > 0.9


def test_actions_of_another_dictionary_are_refused():
    algorithm = ppo(Pair(), NamedActorCritic(5), CONFIG)
    with pytest.raises(
        ValueError, match=r"actions \{'one': 'int32\[\]', .*MultiDiscrete"
    ):
        jax.eval_shape(algorithm.init, jax.random.key(0), FAST, None)


@pytest.mark.slow
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


@pytest.mark.slow  # beside the pendulum, which needs the same
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


@pytest.mark.some_cases(3)
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
class Torque(probes.ContinuousTarget):
    """Bounds that are parameters."""

    def action_space(self, params):
        return Box(-params["torque"], params["torque"], (1,))


TORQUES = {"torque": jnp.float32([2.0, 0.5])}


@pytest.mark.some_cases(1)
@pytest.mark.parametrize(
    ("network", "task"),
    [
        (NormalActorCritic(1), {"torque": 2.0}),
        (NormalActorCritic(1, low=-2.0, high=2.0), {"torque": 0.5}),
        (NormalActorCritic(1, low=-2.0, high=2.0), rljax.ParamsPerEnv(TORQUES)),
    ],
    ids=["no bounds", "too wide", "too wide for one"],
)
def test_bounds_that_are_parameters_are_kept(network, task):
    algorithm = ppo(Torque(), network, CONFIG)
    state = jax.jit(algorithm.init)(jax.random.key(0), FAST, task)
    with pytest.raises(ValueError, match="the environment's action space is Box"):
        train(algorithm, state, task, 1)


def test_and_in_a_sweep():
    network = NormalActorCritic(1, low=-2.0, high=2.0)
    problem = make_problem(
        ppo_module, Torque(), network, {"torque": 2.0}, total_steps=320, config=CONFIG,
        max_steps=9,
    )  # fmt: skip
    with pytest.raises(ValueError, match="the environment's action space is Box"):
        sweep(problem, grid(torque=[2.0, 0.5]), num_seeds=1)


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (-3e38, 3e38)])
def test_a_box_without_room_or_too_much_is_refused(bounds):
    @dataclasses.dataclass(frozen=True)
    class Odd(probes.ContinuousTarget):
        def action_space(self, params):
            return Box(*bounds, (1,))

    with pytest.raises(ValueError, match="between two different bounds"):
        make_network(Odd(), None)


def test_whole_observations_cannot_be_normalized():
    config = dataclasses.replace(CONFIG, normalize_observations=True)
    env = Seen(SPACES["integers"])
    algorithm = ppo(env, make_network(env, None), config)
    with pytest.raises(ValueError, match="floating numbers, got int32"):
        jax.eval_shape(algorithm.init, jax.random.key(0), FAST, None)


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
