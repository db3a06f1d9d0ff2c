"""What a thermostat learned from preferences: true and learned returns, and pictures.

Of `S` independent runs, whose states are stacked on a leading axis.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs import thermostat_exact as exact
from rljax.envs.thermostat import Thermostat, ThermostatParams
from rljax.numerics.statistics import bootstrap_interval, interquartile_mean, summarize
from rljax.report.plots import new_figure, save_figure
from rljax.rlhf.segments import PreferenceNetworks
from rljax.rlhf.segments.learning import act
from rljax.rollouts.rollout import record
from rljax.training.loggers import log_line

_ENV = Thermostat()
_DEGREES = np.linspace(-10.0, 10.0, 81)  # F from the target, where rewards are drawn


def make_test(
    networks: PreferenceNetworks, task: ThermostatParams, num_episodes: int
) -> Callable[[Any, jax.Array], dict[str, jax.Array]]:
    """Makes the evaluation `(states, key) -> metrics` of S runs, on the same episodes.

    The metrics: `true_return` `[S]` of the greedy policy, `learned_return` `[S]`, the sum
    of the learned rewards in the same episodes, `optimum` `[S]`, the most that is possible
    from their starts, and `learned_reward` `[S, 2, 81]`, by action and the temperature
    that it leads to, from 10 degrees below the target to 10 above.
    """
    grid = exact.grid(task)
    optimal = exact.optimal_values(grid, gamma=1.0, num_steps=task.max_steps)
    values = jnp.asarray(optimal, jnp.float32)
    temperatures = jnp.asarray(grid.temperature, jnp.float32)
    observation, action = _before(task)

    def one(state: Any, key: jax.Array) -> dict[str, jax.Array]:
        policy = functools.partial(act, networks, state, greedy=True)
        played = record(
            key,
            _ENV,
            task,
            policy,
            num_episodes=num_episodes,
            max_steps=task.max_steps,
        )
        reward = functools.partial(networks.reward.apply, state.reward)
        seen = played.observation[:-1]
        starts = played.state.temperature[0]
        return {
            "true_return": played.reward.sum(axis=0).mean(),
            "learned_return": reward(seen, played.action).sum(axis=0).mean(),
            "optimum": jnp.interp(starts, temperatures, values).mean(),
            "learned_reward": reward(observation, action),
        }

    # The same key for all: the same starts.
    return lambda states, key: jax.vmap(one, in_axes=(0, None))(states, key)


def figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """The headline figures, of the run's last row; nulls of runs that diverged."""
    returns, optima = (
        np.asarray(row[name], np.float64) for name in ("true_return", "optimum")
    )
    optimum = float(np.nanmax(optima))  # the same for all
    return summarize(returns) | {
        "return_optimum": optimum,
        "within_1_percent": int((returns >= 0.99 * optimum).sum()),
    }


def print_table(result: Mapping[str, Any]) -> None:
    """Prints the figures to stderr."""
    optimum, interval = result["return_optimum"], result["return_ci95"]
    spread = "" if interval is None else " [{:.1f}, {:.1f}]".format(*interval)
    log_line(
        f"true return from {result['comparisons']} comparisons: "
        f"{result['return_iqm']:.1f}{spread}"
    )
    log_line(f"the most that is possible from the same starts: {optimum:.1f}")
    log_line(
        f"within 1 % of it: {result['within_1_percent']} of {len(result['returns'])} runs"
    )


def draw_rewards(
    path: Path, rows: Sequence[Mapping[str, Any]], task: ThermostatParams
) -> None:
    """Draws the learned reward over the temperature that a step leads to, round by round.

    Of many rounds, five.

    Args:
        path: where to write the PNG.
        rows: the run's, those of rounds with `learned_reward` `[S, 2, 81]`.
        task: the room; its band is green.
    """
    rounds = [row for row in rows if row["step"]]
    shown = np.unique(np.linspace(0, len(rounds) - 1, min(len(rounds), 5)).astype(int))
    rounds = [rounds[i] for i in shown]
    figure = new_figure(2.6 * len(rounds) + 0.6, 3.4, dpi=90)
    panels = figure.subplots(1, len(rounds), sharey=True, squeeze=False)[0]
    degrees = task.target + _DEGREES
    low, high = task.target - task.half_band, task.target + task.half_band
    for panel, row in zip(panels, rounds, strict=True):
        panel.axvspan(low, high, color="tab:green", alpha=0.2, linewidth=0)
        rewards = np.asarray(row["learned_reward"], np.float64)
        for heater, color in enumerate(("tab:blue", "tab:red")):
            others = rewards[:, heater].T
            panel.plot(degrees, others, color=color, alpha=0.15, linewidth=0.7)
            label = f"heater {'on' if heater else 'off'}"
            panel.plot(degrees, np.median(others, 1), color=color, label=label)
        asked = np.max(row["comparisons"])
        panel.set_title(f"round {row['step']}: {asked:.0f} comparisons", fontsize=9)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("learned reward (standardized)")
    panels[0].legend(fontsize=8)
    panels[len(rounds) // 2].set_xlabel(
        "temperature after the step (°F); green: the band"
    )
    figure.suptitle("The reward as learned: medians of runs, and each run", fontsize=11)
    save_figure(figure, path)


def draw_returns(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws true and learned returns of the greedy policy by round.

    Args:
        path: where to write the PNG.
        rows: the run's, those of rounds with what the test found.
    """
    figure = new_figure(10, 4.2, dpi=110)
    left, right = figure.subplots(1, 2)
    left.set(title="true return", ylabel="minutes within the band")
    right.set(title="learned return, of the same episodes", ylabel="standardized units")
    steps = [row["step"] for row in rows]
    for panel, name in ((left, "true_return"), (right, "learned_return")):
        runs = np.asarray([row[name] for row in rows], np.float64)
        panel.plot(steps, runs, color="tab:blue", alpha=0.25, linewidth=0.8)
        kept = runs[:, ~np.isnan(runs).any(axis=0)]
        middle = [interquartile_mean(row) for row in kept]
        label = f"interquartile mean of {kept.shape[1]} runs"
        panel.plot(steps, middle, color="tab:blue", linewidth=2, label=label)
        bands = [bootstrap_interval(row, num_resamples=2_000) for row in kept]
        if all(band is not None for band in bands):
            style = {"color": "tab:blue", "alpha": 0.2, "linewidth": 0}
            panel.fill_between(steps, *np.array(bands).T, **style)
        panel.set_xlabel("round (0: untrained)")
        panel.grid(alpha=0.3)
    optimum = np.nanmean(np.asarray([row["optimum"] for row in rows], np.float64))
    style = {"color": "tab:red", "linestyle": "--", "linewidth": 1}
    left.axhline(optimum, label=f"optimum {optimum:.1f}", **style)
    left.set_ylim(0, 1.05 * optimum)
    left.legend(loc="lower right")
    save_figure(figure, path)


def _before(task: ThermostatParams) -> tuple[np.ndarray, np.ndarray]:
    """Observations `[2, 81, 1]` and actions `[2, 81]` that lead to the temperatures drawn."""
    heat = np.array([0.0, task.heating])[:, None]
    after = task.target + _DEGREES - task.tau * (heat + task.cooling * task.outside)
    now = after / (1 - task.tau * task.cooling)
    observation = ((now - task.target) / 10).astype(np.float32)[..., None]
    action = np.broadcast_to(np.array([[0], [1]], np.int32), now.shape)
    return observation, action
