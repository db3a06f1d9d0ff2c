"""Gymnasium's Pendulum-v1: a bounded, continuous action. Swing up, and stay there."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from rljax.base import TimeStep
from rljax.envs.spaces import Box


class PendulumState(struct.PyTreeNode):
    angle: jax.Array  # rad, 0 is up
    speed: jax.Array  # rad/s
    time: jax.Array


class PendulumParams(struct.PyTreeNode):
    gravity: float = 10.0
    max_steps: int = 200


@dataclasses.dataclass(frozen=True)
class Pendulum:
    max_torque: ClassVar[float] = 2.0

    def reset(self, key, params):
        low, high = jnp.float32([-jnp.pi, -1.0]), jnp.float32([jnp.pi, 1.0])
        angle, speed = jax.random.uniform(key, (2,), jnp.float32, low, high)
        state = PendulumState(angle, speed, jnp.int32(0))
        return state, self.observe(state)

    def step(self, key, state, action, params):
        del key
        torque = jnp.clip(action[0], -self.max_torque, self.max_torque)
        angle = (state.angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
        cost = angle**2 + 0.1 * state.speed**2 + 0.001 * torque**2
        push = 1.5 * params.gravity * jnp.sin(state.angle) + 3.0 * torque
        speed = jnp.clip(state.speed + 0.05 * push, -8.0, 8.0)
        state = PendulumState(state.angle + 0.05 * speed, speed, state.time + 1)
        truncated = state.time >= params.max_steps
        return state, TimeStep(self.observe(state), -cost, jnp.bool_(False), truncated)

    def observe(self, state):
        return jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.speed])

    def observation_space(self, params):
        high = jnp.float32([1.0, 1.0, 8.0])
        return Box(-high, high, (3,))

    def action_space(self, params):
        return Box(-self.max_torque, self.max_torque, (1,))
