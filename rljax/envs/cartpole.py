"""CartPole: keep a pole upright by pushing its cart left or right.

The physics and semantics of Gymnasium's CartPole-v1, checked against it step by step.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.base import TimeStep
from rljax.envs.drawing import Circle, Line, Picture, Polygon, Shape, Text, rectangle
from rljax.envs.spaces import Box, Discrete
from rljax.numerics.trig import sincos
from rljax.numerics.validation import check_ranges


class CartPoleParams(struct.PyTreeNode):
    """Physical constants, in SI units. A pytree, so a batch of plants can be vmapped."""

    gravity: float = 9.8  # m/s^2
    masscart: float = 1.0  # kg
    masspole: float = 0.1  # kg
    length: float = 0.5  # m, half the pole: pivot to centre of mass
    force_mag: float = 10.0  # N, magnitude of the push
    tau: float = 0.02  # s, Euler step
    x_threshold: float = 2.4  # m, the episode ends beyond it
    theta_threshold_radians: float = 12 * 2 * math.pi / 360  # rad, likewise
    max_steps: int = 500  # steps until truncation

    @property
    def total_mass(self) -> float:
        """Cart plus pole, in kg."""
        return self.masscart + self.masspole

    @property
    def polemass_length(self) -> float:
        """First moment of the pole about its pivot, in kg m."""
        return self.masspole * self.length


class CartPoleState(struct.PyTreeNode):
    """The plant's state. Arithmetic follows the dtype of `x`."""

    x: jax.Array  # m, position of the cart
    x_dot: jax.Array  # m/s
    theta: jax.Array  # rad, angle of the pole from upright
    theta_dot: jax.Array  # rad/s
    time: jax.Array  # int32, steps taken in this episode


@dataclasses.dataclass(frozen=True)
class CartPole:
    """The environment; see `rljax.base.Environment`.

    Attributes:
        semi_implicit: advance the velocities first and the positions with the new
            velocities (Gymnasium's `kinematics_integrator` other than "euler"). The
            default is explicit Euler: positions advance with the old velocities.
    """

    semi_implicit: bool = False

    version: ClassVar[int] = 1  # raised only when behaviour changes
    num_noise: ClassVar[int] = 4

    def check_params(self, params: CartPoleParams) -> None:
        """Raises a ValueError for parameters out of range; they may be arrays."""
        largest = float(np.finfo(np.float32).max)
        ranges = {name: (-largest, largest) for name in ("gravity", "force_mag")}
        ranges |= {"masspole": (0.0, largest), "max_steps": (1, 2**31 - 1)}
        lengths = ("length", "x_threshold", "theta_threshold_radians")
        check_ranges(params, ranges, positive=("masscart", "tau", *lengths))

    def reset(
        self, key: jax.Array, params: CartPoleParams
    ) -> tuple[CartPoleState, jax.Array]:
        """Draws every state variable from U(-0.05, 0.05); consumes `key`."""
        noise = jax.random.uniform(key, (self.num_noise,), jnp.float32)
        return self.reset_from_noise(noise, params)

    def reset_from_noise(
        self, noise: jax.Array, params: CartPoleParams
    ) -> tuple[CartPoleState, jax.Array]:
        """The start state as a function of `[4]` uniform noise in [0, 1)."""
        del params
        # The difference is exact, so that a fused multiply-add, which some programs
        # would use and others not, cannot change a start state's last bit.
        x, x_dot, theta, theta_dot = (0.1 * (number - 0.5) for number in noise)
        state = CartPoleState(x, x_dot, theta, theta_dot, time=jnp.int32(0))
        return state, _observe(state)

    def step(
        self,
        key: jax.Array,
        state: CartPoleState,
        action: jax.Array,
        params: CartPoleParams,
    ) -> tuple[CartPoleState, TimeStep]:
        """Advances the plant by `params.tau` under one push.

        Args:
            key: unused; the dynamics are deterministic.
            state: unbatched state.
            action: int scalar: 1 pushes to the right, anything else to the left.
            params: physical constants.

        Returns:
            The next state and its time step. The observation is float32 `[4]`: position
            (m), velocity (m/s), angle (rad), angular velocity (rad/s). The reward is 1,
            on the terminating step too.
        """
        del key
        dtype = state.x.dtype
        physics = jax.tree.map(lambda p: jnp.asarray(p, dtype), params)
        force = jnp.where(action == 1, physics.force_mag, -physics.force_mag)
        sin, cos = sincos(state.theta)

        # Florian (2007), "Correct equations for the dynamics of the cart-pole system",
        # eqs. 23 and 24 without friction.
        per_mass = 1.0 / physics.total_mass
        push = (force + physics.polemass_length * state.theta_dot**2 * sin) * per_mass
        theta_acc = (physics.gravity * sin - cos * push) / (
            physics.length * (4.0 / 3.0 - physics.masspole * per_mass * cos**2)
        )
        x_acc = push - physics.polemass_length * per_mass * theta_acc * cos

        faster = state.replace(
            x_dot=state.x_dot + physics.tau * x_acc,
            theta_dot=state.theta_dot + physics.tau * theta_acc,
        )
        speed = faster if self.semi_implicit else state
        state = faster.replace(
            x=state.x + physics.tau * speed.x_dot,
            theta=state.theta + physics.tau * speed.theta_dot,
            time=state.time + 1,
        )
        fell = (jnp.abs(state.x) > physics.x_threshold) | (
            jnp.abs(state.theta) > physics.theta_threshold_radians
        )
        return state, TimeStep(
            observation=_observe(state),
            reward=jnp.float32(1.0),
            terminated=fell,
            truncated=state.time >= params.max_steps,
        )

    def log_prob_reset(self, state: CartPoleState, params: CartPoleParams) -> jax.Array:
        """Log-density of a start state; -inf outside the start distribution."""
        del params
        inside = (state.time == 0) & (jnp.abs(_numbers(state)) <= 0.05).all(0)
        return jnp.where(inside, -4 * jnp.log(jnp.float32(0.1)), -jnp.inf)

    def log_prob_step(
        self,
        state: CartPoleState,
        action: jax.Array,
        next_state: CartPoleState,
        params: CartPoleParams,
    ) -> jax.Array:
        """0 if the step leads to `next_state`, up to rounding; -inf if it does not."""
        certain, _ = self.step(jax.random.key(0), state, action, params)
        a, b = _numbers(next_state), _numbers(certain)
        close = jnp.abs(a - b) <= 32 * jnp.finfo(a.dtype).eps * (1 + jnp.abs(b))
        follows = close.all(0) & (next_state.time == certain.time)
        return jnp.where(follows, jnp.float32(0.0), -jnp.inf)

    def observation_space(self, params: CartPoleParams) -> Box:
        """`[4]`: twice the thresholds in position and angle, no bound on the speeds."""
        position, angle = 2 * params.x_threshold, 2 * params.theta_threshold_radians
        high = jnp.array([position, np.inf, angle, np.inf], jnp.float32)
        return Box(low=-high, high=high, shape=(4,))

    def action_space(self, params: CartPoleParams) -> Discrete:
        """Two pushes: 0 to the left, 1 to the right."""
        del params
        return Discrete(2)

    def draw(self, state: Any, action: Any, params: CartPoleParams) -> Picture:
        """The cart on its track, the pole and the last push; see `rljax.envs.drawing`."""
        x, theta, edge = float(state.x), float(state.theta), float(params.x_threshold)
        length = 2 * float(params.length)
        tip = (x + length * math.sin(theta), length * math.cos(theta))
        seconds = int(state.time) * float(params.tau)
        shapes: list[Shape] = [
            Line([(-1.2 * edge, -0.3), (1.2 * edge, -0.3)], "#888888", 0.02),
            *(Line([(s * edge, -0.4), (s * edge, -0.2)], "#c0392b") for s in (-1, 1)),
            rectangle(x - 0.25, -0.25, x + 0.25, 0.0, "#34495e"),
            Circle(x - 0.15, -0.25, 0.05, "#888888"),
            Circle(x + 0.15, -0.25, 0.05, "#888888"),
            Line([(x, 0.0), tip], "#c98a4b", 0.08),
            Circle(x, 0.0, 0.05, "#5b6ee1"),
            Text(-1.15 * edge, length + 0.15, f"{seconds:.2f} s", 0.17),
        ]
        if action is not None:
            push = 1 if action == 1 else -1
            behind = x - 0.3 * push
            shapes += [
                Line([(behind - 0.4 * push, -0.12), (behind, -0.12)], "#2471a3", 0.05),
                Polygon(
                    [(behind - 0.1 * push, -0.24), (behind - 0.1 * push, 0.0),
                     (behind + 0.05 * push, -0.12)],
                    "#2471a3",
                ),
            ]  # fmt: skip
        return Picture(-1.2 * edge, -0.5, 1.2 * edge, length + 0.4, shapes)


def _numbers(state: CartPoleState) -> jax.Array:
    return jnp.stack([state.x, state.x_dot, state.theta, state.theta_dot])


def _observe(state: CartPoleState) -> jax.Array:
    return _numbers(state).astype(jnp.float32)
