"""Times a sweep beside the same runs one process each, and on one device.

    python experiments/benchmarks/sweep_throughput.py

16 learning rates x 16 seeds x 50,000 steps of PPO on CartPole. Processes have what ours has, a
compile cache that is full; some are timed, one after another and one a core, for all. The
last line is how many times faster the sweep is than the processes, and all cores than one
device. About six minutes.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from children import output, rows

from rljax.commands.launch import check_counts, launch
from rljax.training.files import RunError, dumps

HERE = Path(__file__).parent
EXPERIMENTS = HERE.parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What the command line can change."""

    num_seeds: int = 16
    """Runs of each of 16 learning rates."""
    num_processes: int = 8
    """Runs that are timed in processes of their own; a multiple of the cores."""
    devices: int = 0
    """Sweep on so many devices here; what the benchmark's children do."""

    def __post_init__(self):
        check_counts(self, "num_seeds", "num_processes")


def main(settings: Benchmark) -> dict[str, Any]:
    """Prints a line for each way to make the runs."""
    if settings.devices:
        return on_devices(settings)
    cores = os.cpu_count() or 1
    num_runs = 16 * settings.num_seeds
    flags = ["--num-seeds", settings.num_seeds]
    found: dict[str, float] = {}

    def say(how: str, seconds: float, **more: Any) -> None:
        found[how] = seconds
        row = {"how": how, "runs": num_runs, "seconds": seconds}
        print(dumps(row | more), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        # All that follows takes its programs from here.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        script = [sys.executable, EXPERIMENTS / "sweep_cartpole.py", *flags]
        for how in ("sweep, nothing compiled before", "sweep"):
            say(how, timed([script]))
        for count in sorted({1, cores}):
            child = [sys.executable, __file__, "--devices", count, *flags]
            (row,) = rows(child)
            say(f"sweep, devices: {count}", row["seconds_run"], **row)
        solo = [
            *(sys.executable, EXPERIMENTS / "cartpole_ppo.py", "--num-seeds", 1),
            *("--total-steps", 50_000, "--num-episodes", 32),
        ]
        output([str(x) for x in solo])  # compiles
        runs = [[*solo, "--seed", i] for i in range(settings.num_processes)]
        share = num_runs / len(runs)
        say("processes, one by one", share * sum(timed([run]) for run in runs))
        several = [runs[i : i + cores] for i in range(0, len(runs), cores)]
        say("processes, one a core", share * sum(timed(few) for few in several))
    ratios = {
        how: seconds / found["sweep"]
        for how, seconds in found.items()
        if how.startswith("processes")
    }
    ratios["one device"] = (
        found["sweep, devices: 1"] / found[f"sweep, devices: {cores}"]
    )
    return {"device": f"cpu x {cores}", "ratios": ratios}


def timed(commands: list[list[Any]]) -> float:
    """Seconds until commands that are started together have all ended."""
    started = time.perf_counter()
    none = subprocess.DEVNULL
    children = [
        subprocess.Popen([*map(str, words)], stdout=none, stderr=none)
        for words in commands
    ]
    if any([child.wait() for child in children]):
        raise RunError(f"a run failed: {' '.join(map(str, commands[0]))}")
    return time.perf_counter() - started


def on_devices(settings: Benchmark) -> dict[str, Any]:
    """The sweep on some devices, without its report."""
    jax.config.update("jax_num_cpu_devices", settings.devices)
    import sweep_cartpole

    result = sweep_cartpole.main(
        sweep_cartpole.Experiment(num_seeds=settings.num_seeds)
    )
    names = ("device", "seconds_compile", "seconds_run", "env_steps_per_second")
    return {name: result[name] for name in names}


if __name__ == "__main__":
    sys.path.insert(0, str(EXPERIMENTS))
    launch(main, Benchmark, __doc__)
