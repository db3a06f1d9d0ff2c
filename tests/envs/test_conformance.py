import dataclasses
import re
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from rljax.base import TimeStep
from rljax.envs import check_environment
from rljax.envs.drawing import Circle, Picture
from rljax.envs.spaces import Box, Discrete, MultiDiscrete

PARAMS = {"speed": 0.2}


class State(struct.PyTreeNode):
    position: Any
    time: Any


@dataclasses.dataclass(frozen=True)
class Walk:
    """A good environment made of parts; each broken one replaces one of them."""

    start: Callable = lambda key: State(
        jax.random.uniform(key, (), jnp.float32), jnp.int32(0)
    )
    noise: Callable = lambda key: jax.random.normal(key, (), jnp.float32)
    speed: Callable = lambda state, speed: speed
    limit: Callable = lambda position: jnp.clip(position, -1, 1)
    tick: Callable = lambda time: time + 1
    observe: Callable = lambda state: jnp.stack([state.position])
    reward: Callable = lambda state: -state.position
    terminated: Callable = lambda state: state.position <= -1
    truncated: Callable = lambda state: state.time >= 5
    pack: Callable = lambda *step: (step[0], TimeStep(*step[1:]))
    table: Any = None

    def reset(self, key, params):
        state = self.start(key)
        return state, self.observe(state)

    def step(self, key, state, action, params):
        move = self.speed(state, params["speed"]) * (2 * action - 1)
        position = self.limit(state.position + move + 0.01 * self.noise(key))
        state = State(position, self.tick(state.time))
        parts = (self.observe, self.reward, self.terminated, self.truncated)
        return self.pack(state, *(part(state) for part in parts))

    def observation_space(self, params):
        return Box(-1.0, 1.0, (1,))

    def action_space(self, params):
        return Discrete(2)


@dataclasses.dataclass(frozen=True)
class BadStepNoise(Walk):
    """Steps that are NaN for some of the noise; `step` itself is good."""

    step_noise: Any = 1
    step = Walk.step

    def step_from_noise(self, noise, state, action, params):
        position = jnp.where(noise[0] < 0.4, jnp.float32(jnp.nan), 0.5)
        state = State(position, state.time + 1)
        return state, TimeStep(*(part(state) for part in (
            self.observe, self.reward, self.terminated, self.truncated
        )))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class WithDensity(Walk):
    start_density: Callable = lambda state: jnp.float32(0.0)
    step_density: Callable = lambda error: -0.5 * error**2

    reset, step = Walk.reset, Walk.step

    def log_prob_reset(self, state, params):
        return self.start_density(state)

    def log_prob_step(self, state, action, next_state, params):
        mean = state.position + params["speed"] * (2 * action - 1)
        return self.step_density(next_state.position - mean)


@dataclasses.dataclass(frozen=True)
class Masked(Walk):
    """Walk, whose observation says which of several actions there are."""

    mask: Callable = lambda state: jnp.ones(2, bool)
    actions: Callable = lambda: Discrete(2)
    mask_space: Callable = lambda: Box(False, True, (2,), np.bool_)
    observe: Callable = None

    def __post_init__(self):
        def observe(state):
            position = jnp.stack([state.position])
            return {"observation": position, "action_mask": self.mask(state)}

        object.__setattr__(self, "observe", observe)

    def step(self, key, state, action, params):
        return super().step(key, state, jnp.ravel(action)[0], params)

    def observation_space(self, params):
        box = super().observation_space(params)
        return {"observation": box, "action_mask": self.mask_space()}

    def action_space(self, params):
        return self.actions()


@dataclasses.dataclass(frozen=True)
class Parts(Walk):
    """Walk, whose actions are a dictionary or a tuple."""

    actions: Callable = None

    def step(self, key, state, action, params):
        first = jax.tree.leaves(action)[0]
        return super().step(key, state, jnp.ravel(first)[0], params)

    def action_space(self, params):
        return self.actions()


@dataclasses.dataclass(frozen=True)
class Drawn(Walk):
    picture: Callable = lambda state, action: Picture(
        -1, -1, 1, 1, [Circle(state.position, 0, 0.1)]
    )

    def draw(self, state, action, params):
        return self.picture(state, action)


class DrawnWithoutParams(Walk):
    def draw(self, state, action):
        return Picture(-1, -1, 1, 1, [])


class NoStep(Walk):
    step: ClassVar[None] = None


class WithText(Walk):
    pass


class BadNoise(Walk):
    """Starts that are NaN for some of the noise; `reset` itself is good."""

    num_noise: ClassVar[int] = 1

    def reset_from_noise(self, noise, params):
        position = jnp.where(noise[0] < 0.4, jnp.nan, noise[0])
        state = State(position, jnp.int32(0))
        return state, jnp.zeros(1, jnp.float32)

    def reset(self, key, params):
        return super().reset(key, params)[0], jnp.zeros(1, jnp.float32)


class WrongNumNoise(BadNoise):
    num_noise: ClassVar[int] = 2

    reset = Walk.reset

    def reset_from_noise(self, noise, params):
        (position,) = noise
        return State(position, jnp.int32(0)), jnp.zeros(1, jnp.float32)


class NumpyNoise:
    """Numbers drawn from NumPy rather than from the key."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, key):
        return self.rng.normal()


class Counter:
    """A state kept outside of the state."""

    calls = 0

    def __call__(self, state, speed):
        self.calls += 1
        return speed * self.calls / 100


@jax.custom_batching.custom_vmap
def shared_limit(position):
    return jnp.clip(position, -1, 1)


@shared_limit.def_vmap
def shared_limit_of_all_environments(axis_size, in_batched, position):
    return jnp.full_like(position, jnp.clip(position.mean(), -1, 1)), True


def used_twice(key):
    return jax.random.normal(key, (), jnp.float32) + jax.random.uniform(
        key, (), jnp.float32
    )


BROKEN = {
    "python_if_on_the_state": (
        Walk(speed=lambda state, speed: speed if state.position > 0 else -speed),
        r"step does not jit: .*bool",
        r"jnp\.where or jax\.lax\.cond",
    ),
    "state_changes_dtype": (
        Walk(tick=lambda time: time + jnp.float32(1)),
        r"step turns time from int32\[\] into float32\[\]",
        r"\.astype\('int32'\)",
    ),
    "observation_leaves_its_space": (
        Walk(limit=lambda position: position + 0.3),
        r"step's observation float32\[1\] .* lies outside Box\(low=-1\.0",
        r"Widen the space",
    ),
    "observation_of_the_wrong_shape": (
        Walk(observe=lambda state: state.position),
        r"reset's observation float32\[\] .* lies outside Box",
        r"convert the observation",
    ),
    "int_terminated": (
        Walk(terminated=lambda state: jnp.int32(state.position <= -1)),
        r"step's terminated is int32\[\]",
        r"\.astype\('bool'\)",
    ),
    "reward_with_an_axis": (
        Walk(reward=lambda state: -state.position[None]),
        r"step's reward is float32\[1\]",
        r"drop any axis",
    ),
    "numpy_randomness": (
        Walk(noise=NumpyNoise()),
        r"step's .*position differs from call to call",
        r"[Dd]raw random numbers from the key",
    ),
    "state_outside_of_the_state": (
        Walk(speed=Counter()),
        r"step's .*position differs from call to call",
        r"keep everything that changes in the state",
    ),
    "environments_share_a_mean": (
        Walk(limit=shared_limit),
        r"step's .*position of environment \d+ in a batch is",
        r"its state, action and key",
    ),
    "step_uses_its_key_twice": (
        Walk(noise=used_twice),
        r"step uses its key twice",
        r"jax\.random\.split",
    ),
    "nan_reward_in_time": (
        Walk(reward=lambda state: jnp.sqrt(jnp.float32(3) - state.time)),
        r"step made NaN in reward at step 4 of an episode",
        r"[Gg]uard divisions, roots",
    ),
    "nan_state_in_time": (
        Walk(
            limit=jnp.log,
            observe=lambda state: jnp.zeros(1, jnp.float32),
        ),
        r"step made NaN in state\.position at ",
        r"[Gg]uard divisions, roots",
    ),
    "python_number_in_the_state": (
        Walk(start=lambda key: State(jax.random.uniform(key, (), jnp.float32), 0)),
        r"reset's state\.time came from a Python number",
        r"jnp\.int32\(",
    ),
    "plain_tuple_for_a_time_step": (
        Walk(pack=lambda *step: (step[0], step[1:])),
        r"step returned ",
        r"\(state, TimeStep\)",
    ),
    "array_in_the_environment": (
        Walk(table=np.zeros(2)),
        r"is not hashable",
        r"frozen dataclass, and put arrays into params",
    ),
    "text_in_the_parameters": (
        WithText(),
        r"has params\['mode'\] = 'fast'",
        r"a field of the environment",
    ),
    "a_start_outside_the_space_now_and_then": (
        Walk(
            start=lambda key: State(
                jnp.exp(jax.random.normal(key, (), jnp.float32) - 1), jnp.int32(0)
            )
        ),
        r"reset's observation float32\[1\] .* lies outside Box",
        r"Widen the space",
    ),
    "nan_start": (
        Walk(
            start=lambda key: State(
                jax.random.uniform(key, (), jnp.float32) * jnp.nan, jnp.int32(0)
            ),
            observe=lambda state: jnp.zeros(1, jnp.float32),
        ),
        r"reset made NaN in state\.position",
        r"[Gg]uard divisions",
    ),
    "infinite_reward": (
        Walk(reward=lambda state: jnp.float32(1) / (state.time - 3)),
        r"step's reward is inf at step 3 of an episode",
        r"Bound it",
    ),
    "observation_of_another_structure": (
        Walk(observe=lambda state: {"position": state.position}),
        r"reset's observation .* lies outside Box",
        r"convert the observation",
    ),
    "nan_in_starts_from_noise": (
        BadNoise(),
        r"reset_from_noise made NaN in state\.position",
        r"[Gg]uard divisions",
    ),
    "wrong_num_noise": (
        WrongNumNoise(),
        r"reset_from_noise fails on num_noise = 2 numbers",
        r"Correct num_noise",
    ),
    "nan_in_steps_from_noise": (
        BadStepNoise(),
        r"step_from_noise made NaN in state\.position",
        r"[Gg]uard divisions",
    ),
    "wrong_step_noise": (
        BadStepNoise(step_noise="1"),
        r"makes a step from noise and has step_noise = '1'",
        r"[Mm]ake it an int",
    ),
    "impossible_start": (
        WithDensity(start_density=lambda state: -jnp.inf),
        r"log_prob_reset gives -inf for a state that the environment made",
        r"[Cc]ompare with the arithmetic",
    ),
    "impossible_step": (
        WithDensity(step_density=lambda error: jnp.where(error == 0, 0.0, -jnp.inf)),
        r"log_prob_step gives -inf",
        r"[Cc]ompare with the arithmetic",
    ),
    "density_of_another_shape": (
        WithDensity(start_density=lambda state: jnp.zeros(1, jnp.float32)),
        r"log_prob_reset gives \[0\.\]",
        r"finite floating scalar",
    ),
    "no_picture": (
        Drawn(picture=lambda state, action: "a walk"),
        r"`draw` must return a Picture, got str",
        r"[Cc]orrect draw",
    ),
    "bad_picture": (
        Drawn(
            picture=lambda state, action: Picture(0, 0, 1, 1, [Circle(np.nan, 0, 1)])
        ),
        r"shape 0 \(Circle\): coordinates must be finite",
        r"[Cc]orrect draw",
    ),
    "draws_without_an_action": (
        Drawn(picture=lambda state, action: [action * 1.0]),
        r"cannot draw a start: TypeError: unsupported operand",
        r"None at the start",
    ),
    "draws_with_two_arguments": (
        DrawnWithoutParams(),
        r"cannot draw a start: TypeError: .*positional arguments",
        r"draw\(state, action, params\)",
    ),
    "mask_of_another_length": (
        Masked(
            mask=lambda s: jnp.ones(3, bool),
            mask_space=lambda: Box(False, True, (3,), bool),
        ),
        r"reset's observation has an action_mask, bool\[3\], beside .*Discrete\(n=2\)",
        r"[Gg]ive it that shape",
    ),
    "mask_of_numbers": (
        Masked(
            mask=lambda s: jnp.ones(2, jnp.float32),
            mask_space=lambda: Box(0.0, 1.0, (2,)),
        ),
        r"an action_mask, float32\[2\]",
        r"[Gg]ive it that shape",
    ),
    "mask_beside_a_box": (
        Masked(actions=lambda: Box(-1.0, 1.0, (2,))),
        r"an action_mask, bool\[2\], beside the action space Box",
        r"another name",
    ),
    "nothing_is_allowed": (
        Masked(mask=lambda s: jnp.zeros(2, bool)),
        r"reset's observation has an action_mask that allows no action",
        r"[Ee]nd the episode",
    ),
    "nothing_is_allowed_in_time": (
        Masked(mask=lambda s: jnp.full(2, s.time < 3)),
        r"an action_mask that allows no action at step 3 of an episode",
        r"[Ee]nd the episode",
    ),
    "of_one_choice_nothing_is_allowed": (
        Masked(
            mask=lambda s: jnp.array([True, True, False, False]),
            mask_space=lambda: Box(False, True, (4,), np.bool_),
            actions=lambda: MultiDiscrete((2, 2)),
        ),
        r"an action_mask that allows no action",
        r"[Ee]nd the episode",
    ),
    "missing_method": (
        NoStep(),
        r"has no method step",
        r"rljax\.base\.Environment",
    ),
}


@pytest.mark.some_cases(1)
@pytest.mark.parametrize(
    "env",
    [
        *(Walk(), WithDensity(), Drawn(), Masked()),
        Masked(
            mask=lambda state: jnp.array([True, False, True, True, False]),
            mask_space=lambda: Box(False, True, (5,), np.bool_),
            actions=lambda: MultiDiscrete((2, 3)),
        ),
        Parts(actions=lambda: (Discrete(2), Box(-1.0, 1.0, (2,)))),
        Parts(
            actions=lambda: {
                "move": Discrete(2),
                "more": {"push": MultiDiscrete((2, 3))},
            }
        ),
    ],
    ids=["walk", "density", "drawn", "mask", "masks", "tuple", "dict"],
)
def test_a_good_environment_passes(env):
    check_environment(env, PARAMS, jax.random.key(0), num_steps=6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Walk, WithDensity, Drawn])
def test_a_state_may_hold_a_key(kind):
    def tick(time):
        return jax.random.split(time)[0]

    env = kind(
        start=lambda key: State(
            0.5 * jax.random.uniform(key, (), jnp.float32), jax.random.key(3)
        ),
        tick=tick,
        truncated=lambda state: state.position > 2,
    )
    check_environment(env, PARAMS, jax.random.key(0), num_steps=6)


@pytest.mark.some_cases(8)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_environment_is_told_what_to_mend(name):
    env, fault, remedy = BROKEN[name]
    params = PARAMS | ({"mode": "fast"} if isinstance(env, WithText) else {})
    with pytest.raises(ValueError, match=rf"(?s)^{type(env).__name__} ") as error:
        check_environment(env, params, jax.random.key(0), num_steps=6)
    message = str(error.value)
    assert re.search(f"(?s){fault}.*Rule: .*{remedy}", message), message
