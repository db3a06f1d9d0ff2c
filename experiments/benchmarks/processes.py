"""What a second process on a core of its own adds, and what processes that share a run wait.

    python experiments/benchmarks/processes.py

One process on one core, then two on two cores with twice the work, in turns: steps a second
of a population, tokens a second of `rljax score`; and a PPO update of environments that two
processes share, beside an update of as many in one process that shares with nobody.
"""

import dataclasses
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from children import rows
from scoring_problem import make_texts, write_model

from rljax import ActorCritic, CartPole, CartPoleParams, PPOConfig, PPOHyperparams, ppo
from rljax.commands.launch import check_counts, launch
from rljax.numerics.processes import agree, gather, num_processes
from rljax.numerics.sharding import make_mesh
from rljax.training.files import RunError, dumps
from rljax.training.loop import train
from rljax.training.manifest import device
from rljax.training.populations import population, replicate
from rljax.training.run_folder import RunOptions
from rljax.training.sharded import sharded

ENV, TASK, NETWORK = CartPole(), CartPoleParams(), ActorCritic(num_actions=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What the command line can change."""

    turns: int = 5
    """Measurements of each, one after another."""
    updates: int = 20
    """Updates in a measurement of PPO."""
    members: int = 8
    """Members of a population, for each process."""
    envs: int = 2048
    """Environments that a process steps when two share a run."""
    rows: int = 256
    """Rows that are scored, for each process."""
    measure: Literal["all", "population", "shared"] = "all"
    """Used by this script itself: what one of its processes measures."""
    run: RunOptions = dataclasses.field(default_factory=RunOptions)

    def __post_init__(self):
        check_counts(self, "turns", "updates", "members", "envs", "rows")


def seconds_of(algorithm: Any, start: Any, updates: int) -> float:
    """Seconds of some updates, of the slowest process."""
    state = train(algorithm, jax.jit(algorithm.init)(*start), TASK, 2)
    agree(None)
    began = time.perf_counter()
    train(algorithm, state, TASK, updates)
    return max(gather(time.perf_counter() - began))


def measure_population(settings: Benchmark) -> dict[str, Any]:
    """Steps a second of all members, which wait for nobody."""
    config = PPOConfig(num_envs=16, num_steps=128)
    members = settings.members * num_processes()
    agents = population(ppo(ENV, NETWORK, config), devices=tuple(jax.devices()))
    keys = jax.random.split(jax.random.key(0), members)
    start = keys, replicate(PPOHyperparams(), members), TASK
    seconds = seconds_of(agents, start, settings.updates)
    return {"rate": members * settings.updates * config.batch_size / seconds}


def measure_shared(settings: Benchmark) -> dict[str, Any]:
    """Seconds of an update of environments that all processes share."""
    config = PPOConfig(num_envs=settings.envs * num_processes(), num_steps=32)
    learner = sharded(ppo(ENV, NETWORK, config), make_mesh())
    start = jax.random.key(0), PPOHyperparams(), TASK
    return {"seconds": seconds_of(learner, start, settings.updates) / settings.updates}


def job(count: int, command: list[Any]) -> dict[str, Any]:
    """The result of a command in one process, or in two, each on a core of its own."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < count:
        raise RunError(f"two processes need a core each, and there is {len(cores)}.")
    pinned = [["taskset", "-c", cores[i], *command] for i in range(count)]
    if count == 1:
        return rows(pinned[0], PJRT_NPROC="1")[-1]
    where = [["--distributed", f"{address},{count},{i}"] for i in range(count)]
    words = [list(map(str, pinned[i] + where[i])) for i in range(count)]
    environment = os.environ | {"PJRT_NPROC": "1"}
    other = subprocess.Popen(words[1], env=environment, stderr=subprocess.DEVNULL)
    try:
        return rows(words[0], PJRT_NPROC="1")[-1]
    finally:
        other.wait(120)


def score(count: int, settings: Benchmark, folder: Path) -> float:
    """Tokens a second of `rljax score` in so many processes."""
    output = folder / "scores.jsonl"
    for path in folder.glob("scores.jsonl*"):
        path.unlink()
    flags = ["--model", folder / "model", "--input", folder / f"{count}.jsonl"]
    flags += ["--output", output, "--window", max(settings.rows // 8, 1)]
    found = job(count, [sys.executable, "-m", "rljax.commands.main", "score", *flags])
    return found["tokens_per_second"]


def main(settings: Benchmark) -> dict[str, Any]:
    """Prints a line for each turn, and returns medians with the least and the most."""
    if settings.measure == "population":
        return measure_population(settings)
    if settings.measure == "shared":
        return measure_shared(settings)
    names = ("updates", "members", "envs")
    sizes = [x for n in names for x in (f"--{n}", getattr(settings, n))]
    itself = [sys.executable, __file__, *sizes, "--measure"]
    found: dict[str, list[float]] = {"population": [], "scoring": [], "waiting": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model", 0)
        for count in (1, 2):
            pairs = make_texts("flat", settings.rows * count, np.random.default_rng(0))
            lines = [dumps({"prompt": x, "completion": y}) for x, y in pairs]
            (folder / f"{count}.jsonl").write_text("\n".join(lines) + "\n")
        for _ in range(settings.turns):
            one, two = (job(n, [*itself, "population"])["rate"] for n in (1, 2))
            found["population"].append(two / one)
            one, two = (score(n, settings, folder) for n in (1, 2))
            found["scoring"].append(two / one)
            one, two = (job(n, [*itself, "shared"])["seconds"] for n in (1, 2))
            found["waiting"].append(1 - one / two)
            print(dumps({name: x[-1] for name, x in found.items()}), flush=True)
    ratios = {n: [statistics.median(x), min(x), max(x)] for n, x in found.items()}
    return {"device": device(), "turns": settings.turns, "ratios": ratios}


if __name__ == "__main__":
    launch(main, Benchmark, __doc__)
