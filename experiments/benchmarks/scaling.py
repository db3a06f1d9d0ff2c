"""How PPO's speed and memory grow with agents and devices.

    python experiments/benchmarks/scaling.py

Agents of 4 environments x 128 steps side by side in one program, the agents shared out over
the devices. Memory is the compiled program's. Then what a step of either environment and an
update cost, as XLA reckons it, over what this machine does at best.
"""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
from peaks import copy_peak, cost, matrix_peak
from ppo_throughput import SIZES, make_agents, measure

from rljax import CartPole, CartPoleParams
from rljax.commands.launch import launch
from rljax.training.files import dumps
from rljax.training.manifest import device


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What the command line can change."""

    agents: tuple[int, ...] = (2, 8, 32, 128)
    """Numbers of agents; multiples of the number of devices."""
    num_updates: int = 40
    """Updates of each agent in a measurement."""


def grow(num_agents: int, num_devices: int, num_updates: int) -> dict[str, Any]:
    """Steps a second of all agents together, and their memory."""
    config = SIZES["4x128"]
    agents, state, task = make_agents(config, num_agents, num_devices)
    _, seconds = measure(agents, state, task, num_updates)
    memory: Any = jax.jit(agents.step).lower(state, task).compile().memory_analysis()
    on_device = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return {
        "agents": num_agents,
        "devices": num_devices,
        "steps_per_second": num_agents * num_updates * config.batch_size / seconds,
        "kb_per_agent": on_device * num_devices / num_agents / 1024,
    }


def roofline() -> dict[str, Any]:
    """FLOPs and bytes of one step of one CartPole, and the machine's."""
    env, params, count = CartPole(), CartPoleParams(), 16_384
    keys = jax.random.split(jax.random.key(0), count)
    state, _ = jax.vmap(env.reset, in_axes=(0, None))(keys, params)
    step = jax.jit(jax.vmap(env.step, in_axes=(None, 0, 0, None)))
    action = jnp.zeros(count, jnp.int32)
    flops, moved = cost(step.lower(keys[0], state, action, params).compile())
    return {
        "cartpole_flops_per_step": flops / count,
        "cartpole_bytes_per_step": moved / count,
        "bytes_per_lane": sum(x.nbytes for x in jax.tree.leaves(state)) / count,
        "matrix_gflops": matrix_peak() / 1e9,
        "memory_gb_per_s": copy_peak() / 1e9,
    }


def main(settings: Benchmark) -> dict[str, Any]:
    """Prints a line for each measurement."""
    for num_devices in sorted({1, jax.device_count()}):
        for num_agents in settings.agents:
            row = grow(num_agents, num_devices, settings.num_updates)
            print(dumps(row), flush=True)
    return {"device": device(), "roofline": roofline()}


if __name__ == "__main__":
    os.environ["PJRT_NPROC"] = "1"  # threads of a device would wait for one another
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    launch(main, Benchmark, __doc__)
