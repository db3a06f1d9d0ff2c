"""Compares learned thermostat policies with the bang-bang and the optimal policy.

Networks are actor-critics with two actions; parameters of `S` independent runs are stacked on
a leading axis.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from rljax.base import Network, Params
from rljax.envs import thermostat_exact as exact
from rljax.envs.thermostat import Thermostat, ThermostatParams, bang_bang
from rljax.numerics.statistics import bootstrap_interval, interquartile_mean, summarize
from rljax.report.plots import new_figure, save_figure
from rljax.report.policy_replay import play_policies, save_replay
from rljax.rollouts.rollout import Trajectory, evaluate, record
from rljax.training.loggers import log_line

_ENV = Thermostat()
_DEGREES = np.linspace(
    -10.0, 10.0, 81
)  # F from the target, at which policies are drawn


def act(
    network: Network,
    params: Params,
    observation: jax.Array,
    key: jax.Array,
    *,
    greedy: bool = False,
) -> jax.Array:
    """Actions `[B]` of one run's policy at observations `[B, 1]`."""
    policy = network.apply(params, observation, method="policy")
    return policy.mode() if greedy else policy.sample(key)


def on_probability(network: Network, params: Params) -> jax.Array:
    """`[81]` probabilities of heating under one run's policy.

    At temperatures from 10 degrees below the target to 10 above, evenly spaced.
    """
    observation = np.asarray(_DEGREES / 10, np.float32)[:, None]
    return _on_and_value(network, params, observation)[0]


def compare(
    key: jax.Array,
    plant: ThermostatParams,
    network: Network,
    untrained: Params,
    trained: Params,
    lost: np.ndarray,
    *,
    gamma: float,
    num_episodes: int,
) -> dict[str, Any]:
    """Evaluates all policies on the same episodes, and the critics against exact values.

    Args:
        key: consumed.
        plant: the environment's parameters.
        network: an actor-critic.
        untrained: leaves `[S, ...]`; initial parameters; actions are sampled.
        trained: leaves `[S, ...]`; trained parameters; actions are greedy.
        lost: bool `[S]`; runs that diverged, and are left out of the figures.
        gamma: discount factor of the critics.
        num_episodes: episodes of each policy.

    Returns:
        The headline figures of `summarize`, over the trained runs, and
        `returns_untrained` `[S]`; `return_bang_bang`; `return_best_policy`, of the optimal
        policy that ignores the time; `return_optimum`, exact, the upper bound of means; `critic_errors` `[S]`, root mean squares of the relative error
        over the states that the stochastic policy visits.
    """
    grid = exact.grid(plant)

    def mean_return(act):
        run = functools.partial(evaluate, env=_ENV, params=plant, act=act)
        return run(
            jax.random.clone(key), num_episodes=num_episodes, max_steps=plant.max_steps
        ).returns.mean()

    def examine(params):
        greedy = mean_return(functools.partial(act, network, params, greedy=True))
        seen = record(
            jax.random.clone(key),
            _ENV,
            plant,
            functools.partial(act, network, params),
            num_episodes=64,
            max_steps=plant.max_steps,
        )
        critic = _on_and_value(network, params, grid.observation)
        return greedy, (*critic, seen.state.temperature)

    def examine_untrained(params):
        return mean_return(functools.partial(act, network, params))

    returns, critics = jax.device_get(jax.jit(jax.vmap(examine))(trained))
    best = exact.best_act(grid, plant, gamma=gamma)
    optimum = exact.optimal_values(grid, gamma=1.0, num_steps=plant.max_steps)
    return summarize(np.where(lost, np.nan, returns)) | {
        "returns_untrained": jax.jit(jax.vmap(examine_untrained))(untrained),
        "return_bang_bang": float(jax.jit(lambda: mean_return(bang_bang))()),
        "return_best_policy": float(jax.jit(lambda: mean_return(best))()),
        "return_optimum": exact.objective(grid, optimum),
        "critic_errors": [
            exact.relative_error(
                grid, exact.policy_values(grid, on, gamma=gamma), value, visited
            )
            for on, value, visited in zip(*critics, strict=True)
        ],
    }


def print_table(result: Mapping[str, Any]) -> None:
    """Prints the result of `compare` to stderr as a table."""
    optimum = result["return_optimum"]

    def line(name: str, value: float, interval: Any = None) -> None:
        spread = "" if interval is None else "[{:.1f}, {:.1f}]".format(*interval)
        log_line(f"{name:<34}{value:>7.1f}  {spread:<16}{value / optimum:>8.1%}")

    log_line(f"{'policy':<34}{'return':>7}  {'95 % interval':<16}{'of optimum':>8}")
    for name, values in (
        ("untrained, actions drawn", result["returns_untrained"]),
        ("learned", result["returns"]),
    ):
        if name == "learned":
            line('"on below the target"', result["return_bang_bang"])
        values = np.asarray(values, np.float64)
        values = values[~np.isnan(values)]
        line(name, interquartile_mean(values), bootstrap_interval(values))
    line("best that sees no clock", result["return_best_policy"])
    line("optimum, exact", optimum)
    errors = result["critic_errors"]
    median, worst = (
        "over 100 %" if error >= 1 else f"{error:.2%}"  # of a value of about zero
        for error in np.nanquantile(np.asarray(errors, np.float64), [0.5, 1.0])
    )
    log_line(f"critics' relative error: {median} (median run), {worst} (worst)")


def draw_episodes(
    folder: Path,
    key: jax.Array,
    plant: ThermostatParams,
    network: Network,
    untrained: Params,
    trained: Params,
    *,
    gamma: float,
) -> None:
    """Draws an episode of each policy, all from the same start.

    Writes `episodes.png`, `replay.html` and `replay.gif` of the first run.

    Args:
        folder: where to write them.
        key: consumed.
        plant: the environment's parameters.
        network: an actor-critic.
        untrained: leaves `[S, ...]`.
        trained: leaves `[S, ...]`.
        gamma: discount factor of the best policy.
    """
    before, after = (
        jax.tree.map(lambda x: x[0], params) for params in (untrained, trained)
    )
    grid = exact.grid(plant)
    best = exact.best_act(grid, plant, gamma=gamma)
    episodes = play_policies(
        key,
        _ENV,
        plant,
        {
            "untrained": functools.partial(act, network, before),
            "on below the target": bang_bang,
            "learned": functools.partial(act, network, after, greedy=True),
            "best": best,
        },
        max_steps=plant.max_steps,
    )
    title = "The thermostat, before and after learning"
    draw_temperatures(folder / "episodes.png", plant, episodes, title=title)
    save_replay(folder, _ENV, plant, episodes, title=title, steps_per_second=20.0)


def draw_temperatures(
    path: Path, params: Any, episodes: Mapping[str, Trajectory], *, title: str
) -> None:
    """Draws temperature and heater over time, one row an episode.

    Args:
        path: where to write the PNG.
        params: the `ThermostatParams` of the plant.
        episodes: by name, each from `rljax.episode`.
        title: of the figure.
    """
    rows = len(episodes)
    figure = new_figure(9, 1.2 + 1.9 * rows, dpi=110)
    axes: Any = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, one) in zip(axes, episodes.items(), strict=True):
        degrees = np.asarray(one.state.temperature, np.float64)
        minutes = params.tau * np.arange(len(degrees))
        low, high = params.target - params.half_band, params.target + params.half_band
        axis.axhspan(low, high, color="tab:green", alpha=0.25, linewidth=0)
        axis.plot(minutes, degrees, color="tab:red", linewidth=1.2)
        on = np.asarray(one.action) == 1
        bottom, top = min(degrees.min(), low) - 2, max(degrees.max(), high) + 2
        strip = bottom - 0.08 * (top - bottom)
        bars = [(minute, params.tau) for minute in minutes[:-1][on]]
        axis.broken_barh(bars, (strip, bottom - strip), color="tab:orange", linewidth=0)
        axis.set_ylim(strip, top)
        axis.set_ylabel("temperature (°F)")
        share = np.mean(one.reward)
        axis.set_title(
            f"{name}: {share:.0%} of the time within {low:g} to {high:g} °F, "
            f"heater on {on.mean():.0%}",
            fontsize=10,
            loc="left",
        )
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("time (min); orange: heater on; green: the target band")
    figure.suptitle(title)
    save_figure(figure, path)


def draw_policy(
    path: Path,
    plant: ThermostatParams,
    env_steps: ArrayLike,
    on: ArrayLike,
    *,
    gamma: float,
) -> None:
    """Draws the probability of heating over temperature and training.

    Args:
        path: where to write the PNG.
        plant: the environment's parameters.
        env_steps: `[E]` environment steps at each evaluation.
        on: `[E, 81]`, from `on_probability`.
        gamma: discount factor of the optimal policy, drawn beside it.
    """
    steps, shares = np.asarray(env_steps, np.float64), np.asarray(on, np.float64)
    grid = exact.grid(plant)
    best_on = exact.optimal_policy(grid, gamma=gamma)
    best = np.interp(plant.target + _DEGREES, grid.temperature, best_on)
    between = (steps[1:] + steps[:-1]) / 2
    half = (_DEGREES[1] - _DEGREES[0]) / 2
    edges = plant.target + np.append(_DEGREES - half, _DEGREES[-1] + half)
    figure = new_figure(9, 5, dpi=110)
    left, right = axes = figure.subplots(1, 2, sharey=True, width_ratios=[12, 1])
    for panel, columns, share in (
        (left, np.concatenate([steps[:1], between, steps[-1:]]), shares),
        (right, np.arange(2), best[None]),
    ):
        mesh = panel.pcolormesh(
            columns, edges, share.T, cmap="RdBu_r", vmin=0, vmax=1, shading="flat"
        )
        for side in (-1, 1):
            panel.axhline(
                plant.target + side * plant.half_band,
                color="black",
                linestyle="--",
                linewidth=1,
                label="the target band" if side == 1 else None,
            )
    figure.colorbar(mesh, ax=axes, label="probability that the heater is on")
    left.set_title("policy of the first run")
    left.set_xlabel("environment steps of one run")
    left.set_ylabel("temperature (°F)")
    left.xaxis.set_major_formatter("{x:,.0f}")
    left.legend(loc="upper right")
    right.set_title("best\n(white: either)")
    right.set_xticks([])
    save_figure(figure, path)


def _on_and_value(network: Network, params: Params, observation: Any) -> Any:
    """`[N]` probabilities of heating, and values, at `[N, 1]` observations."""
    policy, value = network.apply(params, observation)
    return jax.nn.softmax(policy.logits)[:, 1], value
