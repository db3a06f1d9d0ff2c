"""Probe environments: each needs one ability of a learner, and takes seconds.

After Andy Jones, "Debugging RL, without the agonizing pain". Every algorithm solves each.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from rljax.base import TimeStep
from rljax.envs.spaces import Box, Discrete


class ProbeState(struct.PyTreeNode):
    cue: jax.Array  # float32, -1 or 1
    time: jax.Array  # int32


@dataclasses.dataclass(frozen=True)
class Probe:
    """Shows a cue at random, pays, and ends after `length` steps."""

    length: ClassVar[int] = 1

    def reset(self, key, params):
        cue = jax.random.choice(key, jnp.float32([-1.0, 1.0]))
        state = ProbeState(cue, jnp.int32(0))
        return state, self.observe(state)

    def step(self, key, state, action, params):
        del key
        reward = jnp.float32(self.reward(state, action))
        state = state.replace(time=state.time + 1)
        done = state.time >= self.length
        terminated, truncated = self.flags(done)
        return state, TimeStep(self.observe(state), reward, terminated, truncated)

    def flags(self, done):
        return done, jnp.bool_(False)

    def observe(self, state):
        return jnp.zeros(1, jnp.float32)

    def observation_space(self, params):
        return Box(-10.0, 10.0, (1,))

    def action_space(self, params):
        return Discrete(2)


class ConstantReward(Probe):
    """Value: one number has to be learned."""

    def reward(self, state, action):
        return 1.0


class RewardFromObservation(Probe):
    """Value: it depends on the observation."""

    def reward(self, state, action):
        return state.cue

    def observe(self, state):
        return state.cue[None]


class DelayedReward(Probe):
    """Value: a reward is worth gamma times as much a step earlier."""

    length: ClassVar[int] = 2

    def reward(self, state, action):
        return state.time == 1

    def observe(self, state):
        return state.time.astype(jnp.float32)[None]


class RewardFromAction(Probe):
    """Policy: one action is better."""

    def reward(self, state, action):
        return jnp.where(action == 1, 1.0, -1.0)


class RewardFromBoth(Probe):
    """Policy: which action is better depends on the observation."""

    def reward(self, state, action):
        return jnp.where(action == (state.cue > 0), 1.0, -1.0)

    def observe(self, state):
        return state.cue[None]


class NeverEnding(Probe):
    """Value: the clock runs out after every fifth step, but the task goes on."""

    length: ClassVar[int] = 5

    def reward(self, state, action):
        return 1.0

    def flags(self, done):
        return jnp.bool_(False), done


class ContinuousTarget(Probe):
    """Policy: the action is a number, and should be half the cue."""

    def reward(self, state, action):
        return -jnp.square(action[0] - 0.5 * state.cue)

    def observe(self, state):
        return state.cue[None]

    def action_space(self, params):
        return Box(-10.0, 10.0, (1,))


PROBES = (
    ConstantReward(),
    RewardFromObservation(),
    DelayedReward(),
    RewardFromAction(),
    RewardFromBoth(),
    NeverEnding(),
)


@dataclasses.dataclass(frozen=True)
class AnyProbe(Probe):
    """The probe whose index `params` is: a population learns them all in one program."""

    def reset(self, key, params):
        state, _ = PROBES[0].reset(key, None)
        return state, jax.lax.switch(params, [p.observe for p in PROBES], state)

    def step(self, key, state, action, params):
        del key
        branches = [
            functools.partial(probe.step, None, params=None) for probe in PROBES
        ]
        return jax.lax.switch(params, branches, state, action)
