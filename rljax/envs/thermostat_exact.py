"""Exact values of the thermostat, by dynamic programming on a grid of temperatures.

The state is one number besides the time, so values of policies and the optimal policy can be
computed, to compare learned ones with. In NumPy and float64.

Values between two points of the grid are interpolated linearly. A disturbance first
smooths the values, as a convolution with its density; rewards, which have jumps, are
integrated over it exactly.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from rljax.envs.thermostat import ThermostatParams

_normal_cdf = np.vectorize(lambda z: 0.5 * (1.0 + math.erf(z / math.sqrt(2.0))))


class Grid(NamedTuple):
    """A tabulated plant: `N` temperatures; actions 0 and 1 are the heater off and on.

    Attributes:
        temperature: `[N]`, F, evenly spaced.
        observation: `[N, 1]` float32, the environment's.
        reward: `[2, N]` expected reward of either action.
        below: int `[2, N]` grid point below the next temperature without disturbance.
        share: `[2, N]` its distance from that grid point, as a share of the spacing.
        kernel: `[2 * M + 1]` probabilities of the disturbances -M, ..., M, in spacings.
        start: `[N]` probabilities of the start temperatures.
    """

    temperature: np.ndarray
    observation: np.ndarray
    reward: np.ndarray
    below: np.ndarray
    share: np.ndarray
    kernel: np.ndarray
    start: np.ndarray


def grid(params: ThermostatParams, num_points: int = 40001) -> Grid:
    """Tabulates a plant, whose parameters are numbers, over all temperatures in reach.

    Raises:
        ValueError: `num_points` is below two; the Euler step is unstable, so that
            temperatures are unbounded (not `0 < cooling * tau <= 1`); or another
            parameter is out of range.
    """
    if num_points < 2:
        raise ValueError(f"a grid needs two points, got {num_points}. Use more.")
    contraction = params.cooling * params.tau
    if not 0 < contraction <= 1:
        raise ValueError(
            f"a grid needs bounded temperatures, 0 < cooling * tau <= 1, got "
            f"{params.cooling} * {params.tau}. Change either."
        )
    if not 0 <= params.disturbance < math.inf or params.start_low > params.start_high:
        raise ValueError(
            f"a grid needs disturbance >= 0 and start_low <= start_high, got "
            f"{params.disturbance}, {params.start_low} and {params.start_high}. Correct "
            f"them."
        )
    hottest = params.outside + max(0.0, params.heating / params.cooling)
    coldest = params.outside + min(0.0, params.heating / params.cooling)
    # The stationary spread of the disturbance; with seven of them nothing is cut off.
    margin = 7 * params.disturbance / math.sqrt(contraction * (2 - contraction))
    temperature = np.linspace(
        min(params.start_low, coldest) - margin,
        max(params.start_high, hottest) + margin,
        num_points,
    )
    spacing = temperature[1] - temperature[0]
    heat = np.array([0.0, params.heating])[:, None]
    mean = temperature + params.tau * (
        heat - params.cooling * (temperature - params.outside)
    )
    below, share = _locate(temperature, mean)
    return Grid(
        temperature=temperature,
        observation=((temperature - params.target) / 10.0).astype(np.float32)[:, None],
        reward=_expected_reward(mean, params),
        below=below,
        share=share,
        kernel=_kernel(params.disturbance, spacing),
        start=_start_weights(temperature, params),
    )


def action_values(table: Grid, values: ArrayLike, gamma: float) -> np.ndarray:
    """`[2, N]` action values, from state values `[N]` of the next step."""
    v = _smoothed(np.asarray(values, np.float64), table.kernel)
    ahead = v[table.below] * (1 - table.share) + v[table.below + 1] * table.share
    return table.reward + gamma * ahead


def policy_values(
    table: Grid, on: ArrayLike, *, gamma: float, num_steps: int | None = None
) -> np.ndarray:
    """`[N]` values of a stochastic policy.

    Args:
        table: the plant.
        on: `[N]` probabilities with which the policy turns the heater on.
        gamma: discount factor.
        num_steps: length of the episodes; None for the continuing task.

    Raises:
        ValueError: a continuing task with gamma of 1 has no finite value.
    """
    probability = np.asarray(on, np.float64)
    shares = np.stack([1 - probability, probability])
    return _iterate(
        lambda values: (shares * values).sum(axis=0), table, gamma, num_steps
    )


def optimal_values(
    table: Grid, *, gamma: float, num_steps: int | None = None
) -> np.ndarray:
    """`[N]` values of the best policy; arguments and errors as in `policy_values`.

    With `num_steps` the policy may depend on the time: an upper bound for all policies.
    """
    return _iterate(lambda values: values.max(axis=0), table, gamma, num_steps)


def optimal_policy(table: Grid, *, gamma: float) -> np.ndarray:
    """`[N]` probabilities of heating under the optimal policy of the continuing task.

    One or zero; a half where both actions are optimal.
    """
    values = optimal_values(table, gamma=gamma)
    off_value, on_value = action_values(table, values, gamma)
    either = np.abs(on_value - off_value) < 1e-5  # the values' error is 1e-6
    return np.where(either, 0.5, on_value > off_value)


def relative_error(
    table: Grid, values: ArrayLike, predicted: ArrayLike, temperature: ArrayLike
) -> float:
    """Root mean square of (predicted - value) / value over visited temperatures.

    Values and predictions are `[N]`, at grid points; `temperature`, F, has any shape.
    """
    visited = np.ravel(temperature)
    value, guess = (
        np.interp(visited, table.temperature, np.asarray(v, np.float64))
        for v in (values, predicted)
    )
    return float(np.sqrt(np.mean(((guess - value) / value) ** 2)))


def best_act(
    table: Grid, params: ThermostatParams, *, gamma: float
) -> Callable[[jax.Array, Any], jax.Array]:
    """The best policy of the continuing task, as `(observation, key) -> action`.

    It looks one step ahead from the observed temperature, not from the nearest grid point.
    """
    values = optimal_values(table, gamma=gamma)
    ahead = jnp.asarray(gamma * _smoothed(values, table.kernel), jnp.float32)
    temperature = jnp.asarray(table.temperature, jnp.float32)
    certain = params.disturbance == 0
    std = 1.0 if certain else params.disturbance

    def act(observation: jax.Array, key: Any = None) -> jax.Array:
        del key
        now = params.target + 10.0 * observation[..., 0]
        off, on = (
            now + params.tau * (heat - params.cooling * (now - params.outside))
            for heat in (0.0, params.heating)
        )

        def value(mean):
            above = mean - params.target
            if certain:
                reward = (jnp.abs(above) <= params.half_band).astype(jnp.float32)
            else:
                ends = jnp.array([-params.half_band, params.half_band])
                below = jax.scipy.stats.norm.cdf(ends, above[..., None], std)
                reward = jnp.diff(below)[..., 0]
            return reward + jnp.interp(mean, temperature, ahead)

        return (value(on) > value(off)).astype(jnp.int32)

    return act


def objective(table: Grid, values: ArrayLike) -> float:
    """J: the mean of `values`, `[N]`, over the start temperatures."""
    return float(np.asarray(values) @ table.start)


def _iterate(
    choose: Callable[[np.ndarray], np.ndarray],
    table: Grid,
    gamma: float,
    num_steps: int | None,
) -> np.ndarray:
    """`[N]` values of a policy, which makes state values of action values `[2, N]`."""
    values = np.zeros_like(table.temperature)
    if num_steps is not None:
        for _ in range(num_steps):
            values = choose(action_values(table, values, gamma))
        return values
    if not 0 <= gamma < 1:
        raise ValueError(
            f"a continuing task needs a discount factor in [0, 1), got gamma={gamma}. "
            f"Use a smaller one, or give num_steps."
        )
    # MacQueen's bounds: the rest of the way lies between gamma / (1 - gamma) times the
    # least and the greatest change. Puterman (1994), Markov Decision Processes, 6.6.
    ahead = gamma / (1 - gamma)
    while True:
        following = choose(action_values(table, values, gamma))
        change = following - values
        low, high = ahead * change.min(), ahead * change.max()
        values = following
        if not high - low >= 1e-6:  # or NaN, as of a policy that diverged
            return values + (low + high) / 2


def _kernel(disturbance: float, spacing: float) -> np.ndarray:
    """`[2 * M + 1]` probabilities of disturbances in whole grid spacings."""
    if disturbance == 0:
        return np.ones(1)
    reach = math.ceil(7 * disturbance / spacing)
    edges = (np.arange(-reach, reach + 2) - 0.5) * spacing
    mass = np.diff(_normal_cdf(edges / disturbance))
    return mass / mass.sum()


def _smoothed(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """`[N]` expected values after the disturbance; constant beyond the ends."""
    if len(kernel) == 1:
        return values
    padded = np.pad(values, len(kernel) // 2, mode="edge")
    size = 1 << (len(padded) + len(kernel)).bit_length()  # fast transforms
    product = np.fft.rfft(padded, size) * np.fft.rfft(kernel, size)
    whole = np.fft.irfft(product, size)
    return whole[len(kernel) - 1 : len(kernel) - 1 + len(values)]


def _expected_reward(mean: np.ndarray, params: ThermostatParams) -> np.ndarray:
    """Probability of the band, by the next temperature without disturbance."""
    low, high = params.target - params.half_band, params.target + params.half_band
    if params.disturbance == 0:
        return ((low <= mean) & (mean <= high)).astype(np.float64)
    return _normal_cdf((high - mean) / params.disturbance) - _normal_cdf(
        (low - mean) / params.disturbance
    )


def _locate(
    temperature: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Grid points below, and the distances from them, as shares of the spacing."""
    last = len(temperature) - 1
    spacing = temperature[1] - temperature[0]
    position = np.clip((points - temperature[0]) / spacing, 0, last)
    below = np.minimum(position.astype(int), last - 1)
    return below, position - below


def _start_weights(temperature: np.ndarray, params: ThermostatParams) -> np.ndarray:
    """`[N]` weights of grid points in a mean over the start temperatures."""
    if params.start_low == params.start_high:
        starts = np.array([params.start_low])
    else:
        # The midpoint rule within each of many cells; a cell is far below the spacing.
        edges = np.linspace(params.start_low, params.start_high, 16 * len(temperature))
        starts = (edges[1:] + edges[:-1]) / 2
    below, share = _locate(temperature, starts)
    weights = np.zeros_like(temperature)
    np.add.at(weights, below, 1 - share)
    np.add.at(weights, below + 1, share)
    return weights / len(starts)
