"""Times random-policy steps of the environments, beside other libraries and a C kernel.

    make peers
    python experiments/benchmarks/env_throughput.py

Over numbers of environments and devices; float32, a restart in the step that ends an
episode, all cores for everybody: one process or one device a core, whichever is better. Each
figure is the best of four stretches after one to warm up. The last line is our best speed
over the best of gymnax, Gymnasium, EnvPool and the kernel. Minutes.
"""

import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from children import output, rows

from rljax import CartPole, CartPoleParams, Thermostat, ThermostatParams
from rljax.commands.launch import launch
from rljax.rollouts.simulation import CPU_FLAGS, compile_simulation
from rljax.training.files import RunError, dumps
from rljax.training.manifest import device

HERE = Path(__file__).parent
CORES = os.cpu_count() or 1
PEERS = {"gymnax": 1 << 20, "gymnasium_vector": 1 << 20, "envpool": 4096}
"""The most environments that each is tried with; more only make it slower."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What the command line can change."""

    num_envs: tuple[int, ...] = (256, 4096, 16_384, 131_072, 1_048_576)
    """Numbers of environments."""
    seconds: float = 2.0
    """Roughly how long each measurement takes."""
    peers: tuple[str, ...] = tuple(PEERS)
    """Which other libraries."""
    python: Path = HERE.parent.parent / ".peers" / "gymnax" / "bin" / "python"
    """The Python that has them."""
    ours: str = ""
    """Measure us here, as this JSON says; what the benchmark's children do."""

    def __post_init__(self):
        if min(self.num_envs, default=0) < CORES:
            raise ValueError(
                f"num_envs must name numbers of {CORES} or more, one for each core, got "
                f"{self.num_envs}. Raise them."
            )
        if unknown := set(self.peers) - set(PEERS):
            raise ValueError(
                f"peers must be of {', '.join(PEERS)}, got {', '.join(unknown)}."
            )


def flip(policy: Any, observation: Any, uniform: jax.Array) -> jax.Array:
    """The random policy."""
    del policy, observation
    return (uniform < 0.5).astype(jnp.int32)


def measure_ours(name: str, num_envs: int, num_devices: int, seconds: float):
    """Steps a second of one environment, in this process."""
    env, params = {
        "CartPole": (CartPole(), CartPoleParams()),
        "Thermostat": (Thermostat(), ThermostatParams(disturbance=0.1)),
    }[name]
    devices = tuple(jax.devices()[:num_devices])

    def run(num_steps: int) -> tuple[float, float]:
        program = compile_simulation(env, flip, num_envs, num_steps, devices)
        keys = jax.random.split(jax.random.key(0), 5)
        started = time.perf_counter()
        compiled = program.lower(keys[0], params, None).compile()
        seconds_compile, took = time.perf_counter() - started, []
        for key in keys:
            started = time.perf_counter()
            jax.block_until_ready(compiled(key, params, None))
            took.append(time.perf_counter() - started)
        return min(took[1:]), seconds_compile

    guess = max(32, 2**24 // num_envs)
    num_steps = max(32, int(guess * seconds / 5 / run(guess)[0]))
    took, seconds_compile = run(num_steps)
    return {
        "system": "rljax",
        "env": name,
        "num_envs": num_envs,
        "how": f"{num_devices} devices",
        "steps_per_second": num_envs * num_steps / took,
        "seconds_compile": seconds_compile,
        "dtype": "float32",
    }


def measure_kernel(num_envs: int, seconds: float) -> dict[str, Any]:
    """Steps a second of the C kernel, compiled here, on all cores."""
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / "kernel"
        source = str(HERE / "cartpole_kernel.c")
        flags = ["-O3", "-march=native", "-pthread"]
        output(["cc", *flags, source, "-o", str(kernel), "-lm"])
        num_steps, best = max(1, 2**24 // num_envs), 0.0
        for _ in range(6):
            sizes = [str(x) for x in (num_envs, num_steps, CORES)]
            took = float(output([str(kernel), *sizes]).split()[0])
            best = max(best, num_envs * num_steps / took)
            num_steps = max(1, int(best * seconds / 5 / num_envs))
    row = {"system": "c_kernel", "env": "CartPole", "num_envs": num_envs}
    return row | {"how": f"{CORES} threads", "steps_per_second": best}


def main(settings: Benchmark) -> dict[str, Any]:
    """Prints a line for each measurement, and returns the ratios."""
    if settings.ours:
        return measure_ours(**json.loads(settings.ours))
    if not settings.python.exists():
        raise RunError(f"{settings.python} is missing. Make it: make peers")
    best: dict[str, float] = {}

    def seen(row: dict[str, Any]) -> None:
        print(dumps(row), flush=True)
        if row.get("env", "CartPole") == "CartPole":
            name = row["system"]
            best[name] = max(best.get(name, 0.0), row["steps_per_second"])

    for name in ("CartPole", "Thermostat"):
        for num_envs in settings.num_envs:
            for num_devices in sorted({1, CORES}):
                it: dict[str, Any] = {
                    "name": name,
                    "num_envs": num_envs,
                    "num_devices": num_devices,
                }
                it["seconds"] = settings.seconds
                command = [sys.executable, __file__, "--ours", dumps(it)]
                seen(rows(command, XLA_FLAGS=CPU_FLAGS)[-1])
    for num_envs in settings.num_envs[1:]:
        seen(measure_kernel(num_envs, settings.seconds))
    for peer in settings.peers:
        for num_envs in settings.num_envs:
            if num_envs <= PEERS[peer]:
                script = str(HERE / "env_throughput_peers.py")
                command = [str(settings.python), "-W", "ignore", script, peer]
                for row in rows([*command, str(num_envs), str(settings.seconds)]):
                    seen(row)
    ours = best.pop("rljax")
    return {
        "device": device(),
        "steps_per_second": ours,
        "ratios": {name: ours / theirs for name, theirs in best.items()},
    }


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", CORES)
    launch(main, Benchmark, __doc__)
