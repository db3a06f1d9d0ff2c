"""Times PPO on CartPole beside rejax and Stable-Baselines3, at the same hyperparameters.

    make peers
    python experiments/benchmarks/ppo_throughput.py

Steps a second after compiling, the best of two runs, one agent on one device; and eight
agents, ours with a device a core. The last line is our speed over theirs. Minutes.
"""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
from children import rows
from peaks import matrix_peak

from rljax import (
    ActorCritic,
    CartPole,
    CartPoleParams,
    PPOConfig,
    PPOHyperparams,
    population,
    ppo,
)
from rljax.commands.launch import check_counts, launch
from rljax.training.files import RunError, dumps
from rljax.training.loop import train
from rljax.training.manifest import device
from rljax.training.populations import replicate

HERE = Path(__file__).parent
SIZES = {
    "4x128": PPOConfig(num_envs=4, num_steps=128, num_epochs=4, num_minibatches=4),
    "256x32": PPOConfig(num_envs=256, num_steps=32, num_epochs=4, num_minibatches=8),
}
HYPERPARAMS = PPOHyperparams(learning_rate=2.5e-4, ent_coef=0.01, vf_clip_eps=0.2)
AGENTS = 8
# The threads of a CPU device would only wait for one another.
ALONE = {"PJRT_NPROC": "1"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What the command line can change."""

    sizes: tuple[str, ...] = tuple(SIZES)
    """Which numbers of environments and steps."""
    total_steps: int = 500_000
    """Environment steps of a run of ours and rejax's."""
    sb3_steps: int = 20_000
    """Environment steps of a run of Stable-Baselines3's."""
    peers: Path = HERE.parent.parent / ".peers"
    """Where `make peers` put the other libraries."""
    ours: int = 0
    """Measure so many agents of ours here; what the benchmark's children do."""

    def __post_init__(self):
        check_counts(self, "total_steps", "sb3_steps")
        if unknown := set(self.sizes) - set(SIZES):
            raise ValueError(
                f"sizes must be of {', '.join(SIZES)}, got {', '.join(unknown)}."
            )


def make_agents(
    config: PPOConfig, num_agents: int, num_devices: int
) -> tuple[Any, Any, Any]:
    """A learner, its state and its task: one agent, or several shared out to devices."""
    network, task = ActorCritic(num_actions=2), CartPoleParams()
    learner, hyperparams = ppo(CartPole(), network, config), HYPERPARAMS
    key = jax.random.key(0)
    if num_agents == 1:
        return learner, jax.jit(learner.init)(key, hyperparams, task), task
    devices = tuple(jax.devices()[:num_devices])
    learner = population(learner, devices=devices)
    keys = jax.random.split(key, num_agents)
    hyperparams = replicate(hyperparams, num_agents)
    return learner, jax.jit(learner.init)(keys, hyperparams, task), task


def measure(
    learner: Any, state: Any, task: Any, num_updates: int
) -> tuple[float, float]:
    """Seconds of a first update, with compiling, and the best of two runs."""
    times: list[float] = []
    for i in range(3):
        started = time.perf_counter()
        jax.block_until_ready(train(learner, state, task, num_updates if i else 1))
        times.append(time.perf_counter() - started)
    return times[0], min(times[1:])


def measure_ours(
    config: PPOConfig, total_steps: int, num_agents: int
) -> dict[str, Any]:
    """Steps a second of one agent, or of several over all devices."""
    num_updates = config.updates(total_steps)
    agents = make_agents(config, num_agents, jax.device_count())
    seconds_compile, seconds = measure(*agents, num_updates)
    return {
        "system": "rljax",
        "num_agents": num_agents,
        "steps_per_second": num_updates * config.batch_size * num_agents / seconds,
        "seconds_compile": seconds_compile,
    }


def count_flops(config: PPOConfig) -> float:
    """Of one environment step: matrix products of both networks only."""
    forward = 2 * (2 * (4 * 64 + 64 * 64) + 64 * 2 + 64)
    return forward * (0.5 + 1.5 + 3 * config.num_epochs)


def main(settings: Benchmark) -> dict[str, Any]:
    """Prints a line for each measurement, and returns the ratios."""
    if settings.ours:
        jax.config.update(
            "jax_num_cpu_devices", min(settings.ours, os.cpu_count() or 1)
        )
        config = SIZES[settings.sizes[0]]
        return measure_ours(config, settings.total_steps, settings.ours)
    pythons = {x: settings.peers / x / "bin" / "python" for x in ("rejax", "sb3")}
    for python in pythons.values():
        if not python.exists():
            raise RunError(f"{python} is missing. Make it: make peers")
    peak, ratios = matrix_peak(), {}
    for name in settings.sizes:
        config = SIZES[name]
        size = ["--sizes", name, "--total-steps", str(settings.total_steps)]
        command = [sys.executable, __file__, *size, "--ours"]
        found = [rows([*command, n], **ALONE)[-1] for n in (1, AGENTS)]
        for peer, python in pythons.items():
            steps = settings.sb3_steps if peer == "sb3" else settings.total_steps
            for num_agents in (1,) if peer == "sb3" else (1, AGENTS):
                setting = dataclasses.asdict(config) | {
                    name: float(x)
                    for name, x in dataclasses.asdict(HYPERPARAMS).items()
                }
                setting |= {"total_steps": steps, "num_agents": num_agents}
                script = str(HERE / "ppo_throughput_peers.py")
                more = ["-W", "ignore", script, peer, json.dumps(setting)]
                found += rows([python, *more], **ALONE)
        speeds = {}
        for row in found:
            speeds[row["system"], row["num_agents"]] = row["steps_per_second"]
            flops = count_flops(config) * row["steps_per_second"]
            row |= {"sizes": name, "dtype": "float32", "share_of_peak": flops / peak}
            print(dumps(row), flush=True)
        ratios[name] = {
            "rejax": speeds["rljax", 1] / speeds["rejax", 1],
            "rejax_8_agents": speeds["rljax", AGENTS] / speeds["rejax", AGENTS],
            "sb3": speeds["rljax", 1] / speeds["sb3", 1],
        }
    return {"device": device(), "peak_gflops": peak / 1e9, "ratios": ratios}


if __name__ == "__main__":
    launch(main, Benchmark, __doc__)
