"""Thermostat: keep a room near its target temperature by switching a heater.

A continuing task with a time limit: it never terminates and is truncated, so the discount
factor and bootstrapping at the limit matter.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.base import TimeStep
from rljax.envs.drawing import Circle, Line, Picture, Shape, Text, rectangle
from rljax.envs.spaces import Box, Discrete
from rljax.numerics.validation import check_ranges


class ThermostatParams(struct.PyTreeNode):
    """The room, the heater and the reward. A pytree, so rooms can be vmapped."""

    target: float = 70.0  # F
    half_band: float = 2.0  # F, the reward is 1 within it around the target
    outside: float = 50.0  # F
    cooling: float = 0.02  # 1/min, of the difference to the outside
    heating: float = 1.0  # F/min, while the heater is on
    tau: float = 1.0  # min, Euler step
    disturbance: float = 0.0  # F, standard deviation of normal noise in each step
    start_low: float = 60.0  # F, the coldest start
    start_high: float = 80.0  # F, the warmest start
    max_steps: int = 200  # steps until truncation


HARD_PLANT = ThermostatParams(heating=3.0)
"""A heater so strong that one step of it crosses half the band: switching it on just
below the target overshoots, and `bang_bang` is far from optimal."""


class ThermostatState(struct.PyTreeNode):
    """The room's state. Arithmetic follows the dtype of `temperature`."""

    temperature: jax.Array  # F
    time: jax.Array  # int32, steps taken in this episode


@dataclasses.dataclass(frozen=True)
class Thermostat:
    """The environment; see `rljax.base.Environment`."""

    version: ClassVar[int] = 1  # raised only when behaviour changes
    num_noise: ClassVar[int] = 1
    step_noise: ClassVar[int] = 1

    def check_params(self, params: ThermostatParams) -> None:
        """Raises a ValueError for parameters out of range; they may be arrays."""
        largest = float(np.finfo(np.float32).max)
        anywhere = ("target", "outside", "heating", "start_low", "start_high")
        ranges = {name: (-largest, largest) for name in anywhere}
        for name in ("half_band", "cooling", "disturbance"):
            ranges[name] = (0.0, largest)
        check_ranges(params, ranges | {"max_steps": (1, 2**31 - 1)}, positive=("tau",))
        low, high = (np.asarray(x) for x in (params.start_low, params.start_high))
        if np.any(low > high):
            raise ValueError(
                f"start_low must not exceed start_high, got {low.max():g} and "
                f"{high.min():g}. Change one."
            )

    def reset(
        self, key: jax.Array, params: ThermostatParams
    ) -> tuple[ThermostatState, jax.Array]:
        """Draws the temperature from U(start_low, start_high); consumes `key`."""
        noise = jax.random.uniform(key, (self.num_noise,), jnp.float32)
        return self.reset_from_noise(noise, params)

    def reset_from_noise(
        self, noise: jax.Array, params: ThermostatParams
    ) -> tuple[ThermostatState, jax.Array]:
        """The start state as a function of `[1]` uniform noise in [0, 1)."""
        # Of 16 bits, the product with a round width is exact, so that a fused
        # multiply-add, which some programs would use and others not, changes no bit.
        share = jnp.floor(noise[0] * 2**16) / 2**16
        width = params.start_high - params.start_low
        state = ThermostatState(params.start_low + width * share, time=jnp.int32(0))
        return state, _observe(state, params)

    def step(
        self,
        key: jax.Array,
        state: ThermostatState,
        action: jax.Array,
        params: ThermostatParams,
    ) -> tuple[ThermostatState, TimeStep]:
        """Draws noise and calls `step_from_noise`; consumes `key`."""
        noise = jax.random.uniform(key, (self.step_noise,), jnp.float32)
        return self.step_from_noise(noise, state, action, params)

    def step_from_noise(
        self,
        noise: jax.Array,
        state: ThermostatState,
        action: jax.Array,
        params: ThermostatParams,
    ) -> tuple[ThermostatState, TimeStep]:
        """Advances the room by `params.tau` minutes with the heater on or off.

        Args:
            noise: `[1]` uniform in [0, 1); its normal quantile is the disturbance.
            state: unbatched state.
            action: int scalar: 1 turns the heater on, anything else off.
            params: the plant.

        Returns:
            The next state and its time step. The observation is float32 `[1]`: how far
            the temperature is above the target, in tens of degrees F. The reward is 1
            if the new temperature lies within the band, ends included, else 0.
        """
        dtype = state.temperature.dtype
        least = np.nextafter(-1, 0, dtype="f")  # at -1 the quantile is infinite
        sign = jnp.maximum(2 * noise[0].astype(dtype) - 1, least)
        normal = jnp.sqrt(dtype.type(2)) * jax.lax.erf_inv(sign)
        disturbance = jnp.asarray(params.disturbance, dtype) * normal
        state = ThermostatState(
            temperature=_undisturbed(state, action, params) + disturbance,
            time=state.time + 1,
        )
        distance = jnp.abs(state.temperature - jnp.asarray(params.target, dtype))
        return state, TimeStep(
            observation=_observe(state, params),
            reward=(distance <= params.half_band).astype(jnp.float32),
            terminated=jnp.bool_(False),
            truncated=state.time >= params.max_steps,
        )

    def log_prob_reset(
        self, state: ThermostatState, params: ThermostatParams
    ) -> jax.Array:
        """Log-density of a start state, per degree F; -inf where none can be."""
        inside = (params.start_low <= state.temperature) & (
            state.temperature <= params.start_high
        )
        density = -jnp.log(jnp.float32(params.start_high - params.start_low))
        return jnp.where(inside & (state.time == 0), density, -jnp.inf)

    def log_prob_step(
        self,
        state: ThermostatState,
        action: jax.Array,
        next_state: ThermostatState,
        params: ThermostatParams,
    ) -> jax.Array:
        """Log-density of the next state; -inf for one that the step cannot lead to.

        With a disturbance, of the next temperature, per degree F. Without one the step is
        deterministic: 0 for its next temperature, up to rounding.
        """
        error = next_state.temperature - _undisturbed(state, action, params)
        disturbed = jnp.asarray(params.disturbance) > 0
        std = jnp.where(disturbed, params.disturbance, 1.0)
        density = jax.scipy.stats.norm.logpdf(error / std) - jnp.log(std)
        rounding = 8 * jnp.finfo(error.dtype).eps * jnp.abs(next_state.temperature)
        certain = jnp.where(jnp.abs(error) <= rounding, 0.0, -jnp.inf)
        follows = next_state.time == state.time + 1
        return jnp.where(follows, jnp.where(disturbed, density, certain), -jnp.inf)

    def observation_space(self, params: ThermostatParams) -> Box:
        """`[1]`: unbounded, as disturbances are."""
        del params
        return Box(-np.inf, np.inf, (1,))

    def action_space(self, params: ThermostatParams) -> Discrete:
        """0 turns the heater off, 1 on."""
        del params
        return Discrete(2)

    def draw(self, state: Any, action: Any, params: ThermostatParams) -> Picture:
        """A thermometer with the band, and the heater; see `rljax.envs.drawing`."""
        temperature, time = float(state.temperature), int(state.time)
        middle, half_band = float(params.target), float(params.half_band)
        scale = 0.16 / half_band  # picture units per degree F

        def height(degrees: float) -> float:
            return min(max(1.0 + scale * (degrees - middle), 0.1), 1.9)

        low, high = height(middle - half_band), height(middle + half_band)
        on, within = action == 1, abs(temperature - middle) <= half_band
        minutes = time * float(params.tau)
        shapes: list[Shape] = [
            rectangle(0.0, 0.0, 1.8, 2.0, "#dceedd" if within else "#f2f2ee"),
            rectangle(0.9, 0.1, 1.1, 1.9, "#ffffff"),  # the thermometer
            rectangle(0.9, low, 1.1, high, "#8fcf97"),
            rectangle(0.95, 0.1, 1.05, height(temperature), "#c0392b"),
            Circle(1.0, 0.1, 0.09, "#c0392b"),
            Line([(0.86, 1.0), (1.14, 1.0)], "#1e7a34", 0.015),
            Text(0.83, 0.96, f"{middle:g} F", 0.13, "#1e7a34", "end"),
            Text(1.2, height(temperature) - 0.05, f"{temperature:.1f} F", 0.15),
            rectangle(2.05, 0.35, 2.85, 1.05, "#e67e22" if on else "#c8c8c8"),
            *(
                rectangle(x, 0.42, x + 0.06, 0.98, "#ffd9a0" if on else "#a8a8a8")
                for x in (2.15, 2.33, 2.51, 2.69)
            ),
            Text(2.45, 0.12, f"heater {'on' if on else 'off'}", 0.16, anchor="middle"),
            Text(2.45, 1.72, f"{minutes:g} min", 0.16, anchor="middle"),
        ]  # fmt: skip
        return Picture(0.0, -0.05, 3.2, 2.05, shapes)


def bang_bang(observation: jax.Array, key: Any = None) -> jax.Array:
    """Actions of the bang-bang controller: heater on below the target.

    Args:
        observation: `[..., 1]`.
        key: unused; `rljax.evaluate` passes one.
    """
    del key
    return (observation[..., 0] < 0).astype(jnp.int32)


def _undisturbed(
    state: ThermostatState, action: jax.Array, params: ThermostatParams
) -> jax.Array:
    """The next temperature without the disturbance."""
    dtype = state.temperature.dtype
    plant = jax.tree.map(lambda p: jnp.asarray(p, dtype), params)
    # Newton's law of cooling, and the heater; explicit Euler.
    loss = plant.cooling * (state.temperature - plant.outside)
    gain = jnp.where(action == 1, plant.heating, 0)
    return state.temperature + plant.tau * (gain - loss)


def _observe(state: ThermostatState, params: ThermostatParams) -> jax.Array:
    above = (state.temperature - params.target) / 10.0
    return above.astype(jnp.float32)[None]
