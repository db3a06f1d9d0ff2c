"""The equations of the RLHF book's chapter "Training Overview", each as a number.

    python experiments/chapter.py

Every line has an equation, the function that is it, what it gives, and the same computed
in another way: by hand, by dynamic programming, or by listing everything. A minute.
Lambert (2025), "Reinforcement learning from human feedback", https://rlhfbook.com.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import enumerated
import jax
import jax.numpy as jnp
import numpy as np

import rljax
from rljax.commands.launch import check_counts, check_seed, launch
from rljax.envs import thermostat, thermostat_exact
from rljax.numerics.compiler import Stopwatch
from rljax.rlhf import policy
from rljax.rlhf.policy.bandit import Completion
from rljax.rollouts import episode, record
from rljax.rollouts.objectives import horizon, log_prob, objective
from rljax.training.loggers import log_line
from rljax.training.run_folder import RunFolder, RunOptions

GAMMA, BETA = 0.99, 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    seed: int = 0
    """Of everything that is drawn."""
    num_episodes: int = 4096
    """Episodes from which J is estimated."""
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(self, "num_episodes", least=2)


class Row(NamedTuple):
    """An equation as a number, and the same number computed in another way."""

    value: float
    check: float
    error: float
    """What chance may add to their difference: a standard error, or rounding."""


def trajectory(experiment: Experiment) -> Row:
    """Log p(tau) = log p(s_0) + sum_t log pi(a_t | s_t) + log p(s_t+1 | s_t, a_t)."""
    env, params = rljax.Thermostat(), rljax.ThermostatParams(disturbance=0.5)
    key = jax.random.key(experiment.seed)

    def act(observation: jax.Array, key: jax.Array) -> jax.Array:
        return jax.random.bernoulli(key, 0.3, observation.shape[:1]).astype(jnp.int32)

    def log_policy(observation: jax.Array, action: jax.Array) -> jax.Array:
        del observation
        return jnp.log(jnp.where(action == 1, 0.3, 0.7))

    played = record(key, env, params, act, num_episodes=1, max_steps=200)
    tau = episode(played, 0)
    found = log_prob(env, params, log_policy, tau).total
    rooms, on = np.asarray(tau.state.temperature, np.float64), np.asarray(tau.action)
    now, later = rooms[:-1], rooms[1:]
    expected = now + params.heating * on - params.cooling * (now - params.outside)
    steps = -(((later - expected) / 0.5) ** 2) / 2 - np.log(0.5 * np.sqrt(2 * np.pi))
    by_hand = np.log(1 / 20) + np.log(np.where(on, 0.3, 0.7)).sum() + steps.sum()
    return Row(float(found), float(by_hand), 1e-3)


def finite(experiment: Experiment) -> Row:
    """J(pi) = E[sum_t r(s_t, a_t)] of "on if below 70", over episodes of 200 minutes."""
    return thermostat_return(experiment, gamma=1.0, max_steps=200, continuing=False)


def continuing(experiment: Experiment) -> Row:
    """J(pi) = E[sum_t gamma^t r(s_t, a_t)] of the same, without an end; gamma = 0.99."""
    steps = horizon(GAMMA)
    return thermostat_return(experiment, gamma=GAMMA, max_steps=steps, continuing=True)


def cartpole(experiment: Experiment) -> Row:
    """theta_t+1 = theta_t + tau theta_dot_t, and theta_dot by the plant's equations."""
    del experiment
    state = np.array([0.01, -0.2, 0.05, 0.3])
    env, params = rljax.CartPole(), rljax.CartPoleParams()
    start = env.reset(jax.random.key(0), params)[0]
    names = ("x", "x_dot", "theta", "theta_dot")
    start = start.replace(
        **{n: jnp.float32(v) for n, v in zip(names, state, strict=True)}
    )
    after, _ = env.step(jax.random.key(0), start, jnp.int32(1), params)
    _, _, theta, theta_dot = state
    push, gravity, cart, pole, half, tau = 10.0, 9.8, 1.0, 0.1, 0.5, 0.02
    sine, cosine, total = np.sin(theta), np.cos(theta), cart + pole
    inner = (push + pole * half * theta_dot**2 * sine) / total
    turning = (gravity * sine - cosine * inner) / (
        half * (4 / 3 - pole * cosine**2 / total)
    )
    by_hand = np.array([theta + tau * theta_dot, theta_dot + tau * turning])
    found = np.array([after.theta, after.theta_dot])
    far = np.abs(found - by_hand).argmax()
    return Row(float(found[far]), float(by_hand[far]), 1e-6)


def bandit(experiment: Experiment) -> Row:
    """J(pi) = E[r_theta(x, y)]: a prompt, a completion as the one action, the end."""
    world = enumerated.make_world(experiment.seed)
    probs = np.exp(enumerated.log_probs(world.params))

    env = policy.PromptBandit(
        enumerated.table_reward, enumerated.VOCABULARY, enumerated.LENGTH
    )
    one_prompt = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    task = policy.BanditParams(*one_prompt, world.rewards)

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        reset_key, draw_key, step_key = jax.random.split(key, 3)
        prompt, _ = env.reset(reset_key, task)
        drawn = jax.random.choice(draw_key, len(probs), p=jnp.asarray(probs))
        ids = jnp.asarray(enumerated.COMPLETIONS, jnp.int32)[drawn]
        action = Completion(ids, jnp.int32(enumerated.LENGTH))
        _, step = env.step(step_key, prompt, action, task)
        return step.reward, step.terminated

    keys = jax.random.split(jax.random.key(experiment.seed), experiment.num_episodes)
    rewards, ended = jax.jit(jax.vmap(one))(keys)
    assert ended.all()  # T = 1
    exact = probs @ np.asarray(world.rewards, np.float64)
    error = float(rewards.std()) / experiment.num_episodes**0.5
    return Row(float(rewards.mean()), float(exact), error)


def regularized(experiment: Experiment) -> Row:
    """E[r] - beta KL(pi || pi_ref) is at most beta log E_ref[exp(r / beta)]."""
    world = enumerated.make_world(experiment.seed)
    best = enumerated.best_of(world, [BETA])
    reference = np.asarray(enumerated.log_probs(world.params), np.float64)
    rewards = np.asarray(world.rewards, np.float64)
    bound = BETA * np.log(np.exp(reference + rewards / BETA).sum())
    return Row(float(best.objective[0]), float(bound), 1e-4)


PARTS: dict[str, tuple[str, Callable[[Experiment], Row]]] = {
    "trajectory": ("rljax.rollouts.objectives.log_prob", trajectory),
    "finite": ("rljax.rollouts.objectives.objective", finite),
    "continuing": ("objective(continuing=True)", continuing),
    "cartpole": ("rljax.CartPole.step", cartpole),
    "bandit": ("rljax.rlhf.policy.PromptBandit", bandit),
    "regularized": ("pi* ~ pi_ref exp(r / beta)", regularized),
}


def thermostat_return(experiment: Experiment, **how: Any) -> Row:
    """Returns J of "on if below 70", estimated, and by dynamic programming."""
    env, params = rljax.Thermostat(), rljax.ThermostatParams()
    estimate = functools.partial(
        objective, env=env, params=params, act=thermostat.bang_bang,
        num_episodes=experiment.num_episodes, **how,
    )  # fmt: skip
    found = jax.jit(estimate)(jax.random.key(experiment.seed))
    table = thermostat_exact.grid(params)
    on = (table.temperature < params.target).astype(float)
    steps = None if how["continuing"] else how["max_steps"]
    values = thermostat_exact.policy_values(
        table, on, gamma=how["gamma"], num_steps=steps
    )
    exact = thermostat_exact.objective(table, values)
    return Row(float(found.mean), exact, float(found.standard_error) + 1e-3)


def main(experiment: Experiment) -> dict[str, Any]:
    """Computes all of it, and returns the numbers."""
    with RunFolder("chapter", experiment, experiment.run) as folder:
        if folder.result is not None:
            return folder.result
        stopwatch, figures = Stopwatch(), {}
        for name, (function, part) in PARTS.items():
            started = time.perf_counter()
            row = part(experiment)
            seconds = time.perf_counter() - started
            log_line(
                f"{part.__doc__}\n    {function}: {row.value:.4f}; in another way "
                f"{row.check:.4f} (+- {2 * row.error:.4f}); {seconds:.1f} s"
            )
            figures[name] = row._asdict() | {"seconds": seconds}
        totals = {
            "equations": len(figures),
            "seconds_run": stopwatch.seconds_run,
            "seconds_compile": stopwatch.seconds_compile,
        }
        return folder.finish(figures, totals, unit="equations")


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
