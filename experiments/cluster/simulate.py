"""What programs need of 64 devices, without one of them: compiled for simulated ones, not run.

    python experiments/cluster/simulate.py

Writes experiments/results/simulated_devices.md and .json: the bytes that a device holds, the
bytes that it sends in a step, and, on paper, how long a step would take on H100s. Only
shapes are passed, no weights. Quarter of an hour on one core of a CPU.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
from compiled_costs import flops, traffic
from paper import estimates, page
from programs import PROGRAMS, Program

from rljax.commands.launch import launch
from rljax.numerics.compiler import Memory, Stopwatch, memory_of
from rljax.training.files import dumps, write_atomically
from rljax.training.loggers import log_line
from rljax.training.manifest import device

NODE = 8  # devices
# Quick to compile; memory and collectives are the same.
QUICK: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
}
RESULTS = Path(__file__).parents[1] / "results"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Simulation:
    """What the command line can change."""

    num_devices: tuple[int, ...] = (8, 64)
    """Each program is compiled for so many; multiples of 8, a node's."""
    programs: tuple[str, ...] = tuple(PROGRAMS)
    """Those that are compiled."""
    results: Path = RESULTS
    """Folder for the two files."""

    def __post_init__(self):
        if unknown := set(self.programs) - set(PROGRAMS):
            raise ValueError(
                f"programs must be some of {', '.join(PROGRAMS)}, got {unknown.pop()!r}."
            )
        if not self.num_devices or any(n < 1 or n % NODE for n in self.num_devices):
            raise ValueError(
                f"num_devices must be multiples of {NODE}, got {self.num_devices}. "
                f"Change them."
            )


def main(settings: Simulation) -> dict[str, Any]:
    """Compiles all, writes the tables, and returns what they are made of."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(settings.num_devices))
    jax.config.update("jax_enable_compilation_cache", False)  # it is timed
    stopwatch, rows = Stopwatch(), list[dict[str, Any]]()
    for name in settings.programs:
        for count in settings.num_devices:
            program = PROGRAMS[name](jax.devices()[:count])
            rows.append({"program": name, "devices": count} | costs(program, count))
            log_line(
                f"{name}, {count} devices: {Memory(**rows[-1]['memory']).describe()}"
            )
    result = {
        "device": device(),
        "seconds_compile": round(stopwatch.seconds_compile, 1),
        "seconds_run": round(stopwatch.seconds_run, 1),
        "programs": rows,
        "estimates_not_measured": estimates(rows),
    }
    path = settings.results / "simulated_devices"
    write_atomically(path.with_suffix(".json"), dumps(result, indent=1) + "\n")
    write_atomically(path.with_suffix(".md"), page(result))
    return result


def costs(program: Program, num_devices: int) -> dict[str, Any]:
    """Returns what one step of a program needs, of a device."""
    stopwatch = Stopwatch()
    lowered = jax.jit(program.step, donate_argnums=0).lower(*program.args)
    compiled = lowered.compile(QUICK)
    seconds, memory = stopwatch.seconds_compile, memory_of(compiled)
    sent, open_loops = traffic(compiled.as_text() or "", NODE)
    state = program.args[0]
    mesh = jax.tree.leaves(state)[0].sharding.mesh
    return {
        "mesh": {name: size for name, size in mesh.shape.items() if size > 1},
        "state_bytes": bytes_held((state.params, state.opt_state)),
        "memory": memory._asdict(),
        "sent": [
            {"kind": kind, "of_several_nodes": place, "bytes": round(size)}
            for (kind, place), size in sorted(sent.items())
        ],
        "open_loops": open_loops,
        "flops": flops(program.whole, *program.args) / num_devices,
        "tokens": program.tokens,
        "seconds_compile": round(seconds, 1),
    }


def bytes_held(tree: Any) -> int:
    """Returns the bytes of shapes that one device holds."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


if __name__ == "__main__":
    launch(main, Simulation, __doc__)
