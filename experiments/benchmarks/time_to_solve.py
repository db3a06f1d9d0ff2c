"""Times whole processes that learn CartPole, beside Stable-Baselines3 and rejax.

    make peers
    python experiments/benchmarks/time_to_solve.py

From the start of a process to its end: imports, compiling, 100,000 steps, one evaluation of
128 greedy episodes. Cold is with an empty compilation cache, warm with that of another seed's
run; the others have no use for one. Stable-Baselines3 runs with RL Zoo's settings, rejax
with the same. The last line is their seconds over ours. Minutes.
"""

import dataclasses
import functools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from children import rows

from rljax.commands.launch import check_counts, launch
from rljax.training.files import dumps
from rljax.training.manifest import device

HERE = Path(__file__).parent
SYSTEMS = ("rljax_cold", "rljax_warm", "rejax", "sb3")
SOLVED = 475.0
TOTAL_STEPS = 100_000
EPISODES = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What the command line can change."""

    seeds: int = 3
    """Processes of each system; seconds are their median."""
    peers: Path = HERE.parent.parent / ".peers"
    """Where `make peers` put the other libraries."""
    ours: int = -1
    """Learn here, with this seed; what the benchmark's children do."""

    def __post_init__(self):
        check_counts(self, "seeds")


def learn(seed: int) -> dict[str, Any]:
    """What a child does: learns, and says what came of it."""
    import jax

    from rljax import (
        ActorCritic,
        CartPole,
        CartPoleParams,
        PPOConfig,
        PPOHyperparams,
        evaluate,
        ppo,
    )
    from rljax.algorithms.ppo import act
    from rljax.training.loop import train

    env, task, network = CartPole(), CartPoleParams(), ActorCritic(num_actions=2)
    config = PPOConfig(num_envs=16, num_steps=32, num_epochs=8, num_minibatches=4)
    learner, num_updates = ppo(env, network, config), config.updates(TOTAL_STEPS)
    # RL Zoo's discount and trace decay; half its passes, at twice its learning rate.
    hyperparams = PPOHyperparams(learning_rate=2e-3, gamma=0.98, gae_lambda=0.8)
    hyperparams = hyperparams.replace(decay_updates=num_updates)
    keys = jax.random.split(jax.random.key(seed), 2)

    def mean_return(state, key):
        policy = functools.partial(act, network, state, greedy=True)
        return evaluate(
            key, env, task, policy, num_episodes=EPISODES, max_steps=500
        ).returns.mean()

    state = jax.jit(learner.init)(keys[0], hyperparams, task)
    test = jax.jit(mean_return)
    test.lower(state, keys[1]).compile()
    times: list[float] = []
    report = lambda state, report: times.append(report.seconds_run)  # noqa: E731
    state = train(learner, state, task, num_updates, on_log=report)
    started = time.perf_counter()
    mean = float(test(state, keys[1]))
    times.append(time.perf_counter() - started)
    return {"return": mean, "seconds_run": sum(times)}


def main(settings: Benchmark) -> dict[str, Any]:
    """Prints a line for each process, and returns the ratios of median seconds."""
    if settings.ours >= 0:
        return learn(settings.ours)
    found: dict[str, list[dict[str, Any]]] = {system: [] for system in SYSTEMS}
    with tempfile.TemporaryDirectory() as folder:
        _run(settings, "rljax_warm", settings.seeds, folder)
        for seed in range(settings.seeds):
            for system in SYSTEMS:
                row = _run(settings, system, seed, folder)
                print(dumps(row), flush=True)
                found[system].append(row)

    def median(system: str, name: str) -> float:
        return float(np.median([row[name] for row in found[system]]))

    cold, warm = (median(f"rljax_{how}", "seconds") for how in ("cold", "warm"))
    run = median("rljax_warm", "seconds_run")
    return {
        "device": device(),
        "solved": {
            system: sum(row["return"] >= SOLVED for row in results)
            for system, results in found.items()
        },
        "seeds": settings.seeds,
        "seconds": {system: median(system, "seconds") for system in SYSTEMS},
        "ratios": {
            "sb3_warm": median("sb3", "seconds") / warm,
            "sb3_cold": median("sb3", "seconds") / cold,
            "rejax_warm": median("rejax", "seconds") / warm,
            "rejax_cold": median("rejax", "seconds") / cold,
            "rejax_run_after_compiling": median("rejax", "seconds_run") / run,
        },
    }


def _run(settings: Benchmark, system: str, seed: int, cache: str) -> dict[str, Any]:
    """One process, timed from outside."""
    with tempfile.TemporaryDirectory() as empty:
        if system.startswith("rljax"):
            command: list[Any] = [sys.executable, __file__, "--ours", seed]
            folder = empty if system == "rljax_cold" else cache
            environment = {"JAX_COMPILATION_CACHE_DIR": folder, "PJRT_NPROC": "1"}
        else:
            python = settings.peers / system / "bin" / "python"
            script = HERE / "time_to_solve_peers.py"
            command = [python, "-W", "ignore", script, system, seed]
            environment = {}
        started = time.perf_counter()
        row = rows(command, **environment)[-1]
        seconds = time.perf_counter() - started
    return {"system": system, "seed": seed, "seconds": seconds} | row


if __name__ == "__main__":
    launch(main, Benchmark, __doc__)
