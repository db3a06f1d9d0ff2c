"""The peers' side of env_throughput.py; runs in the environment that has them.

python env_throughput_peers.py SYSTEM NUM_ENVS SECONDS
"""

import json
import multiprocessing
import os
import sys
import time

CORES = os.cpu_count() or 1


def gymnax(num_envs, seconds):
    """One scan over vmapped steps, on one device and sharded over one for each core."""
    import jax

    jax.config.update("jax_num_cpu_devices", CORES)
    import gymnax

    env, params = gymnax.make("CartPole-v1")

    def run(key, num_steps, num_envs):
        key, reset_key = jax.random.split(key)
        reset = jax.vmap(env.reset, in_axes=(0, None))
        _, state = reset(jax.random.split(reset_key, num_envs), params)

        def step(carry, _):
            key, state = carry
            key, action_key, step_key = jax.random.split(key, 3)
            action = jax.random.randint(action_key, (num_envs,), 0, 2)
            keys = jax.random.split(step_key, num_envs)
            _, state, *_ = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
                keys, state, action, params
            )
            return (key, state), None

        (_, state), _ = jax.lax.scan(step, (key, state), length=num_steps)
        return jax.tree.map(lambda x: x[None], state)

    def measure(num_devices):
        mesh = jax.make_mesh(
            (num_devices,),
            ("d",),
            axis_types=(jax.sharding.AxisType.Auto,),
            devices=jax.devices()[:num_devices],
        )
        spec = jax.sharding.PartitionSpec("d")

        def sharded(keys, num_steps):
            return jax.shard_map(
                lambda keys: run(keys[0], num_steps, num_envs // num_devices),
                mesh=mesh,
                in_specs=spec,
                out_specs=spec,
                check_vma=False,
            )(keys)

        keys = jax.random.split(jax.random.key(0), num_devices)
        program = jax.jit(sharded, static_argnums=1)

        def took(num_steps):
            started = time.perf_counter()
            jax.block_until_ready(program(keys, num_steps))
            return time.perf_counter() - started

        guess = max(8, 2**22 // num_envs)
        took(guess)
        num_steps = max(8, int(guess * seconds / 5 / took(guess)))
        took(num_steps)
        return num_envs * num_steps / min(took(num_steps) for _ in range(4))

    return {f"{n} devices": measure(n) for n in {1, CORES}}


def gymnasium_vector(num_envs, seconds):
    """Its NumPy vector environment; one process, and one on each core."""
    found = {}
    for processes in {1, CORES}:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            work = [(num_envs // processes, seconds)] * processes
            found[f"{processes} processes"] = sum(
                pool.starmap(_vector, work, chunksize=1)
            )
    return found


def _vector(num_envs, seconds):
    import numpy as np
    from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

    env = CartPoleVectorEnv(num_envs=num_envs, max_episode_steps=500)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = [rng.integers(0, 2, num_envs) for _ in range(16)]
    return _steps_per_second(lambda i: env.step(actions[i % 16]), num_envs, seconds)


def envpool(num_envs, seconds):
    """Its C++ environments, on all cores."""
    import envpool
    import numpy as np

    env = envpool.make_gymnasium("CartPole-v1", num_envs=num_envs, num_threads=CORES)
    env.reset()
    rng = np.random.default_rng(0)
    actions = [rng.integers(0, 2, num_envs).astype(np.int32) for _ in range(16)]
    step = lambda i: env.step(actions[i % 16])  # noqa: E731
    return {f"{CORES} threads": _steps_per_second(step, num_envs, seconds)}


def _steps_per_second(step, num_envs, seconds):
    """The best of four stretches, after one to warm up."""
    found = []
    for _ in range(5):
        count, started = 0, time.perf_counter()
        while (took := time.perf_counter() - started) < seconds / 5 or count < 2:
            step(count)
            count += 1
        found.append(count * num_envs / took)
    return max(found[1:])


if __name__ == "__main__":
    system, num_envs, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    for how, rate in globals()[system](num_envs, seconds).items():
        row = {"system": system, "how": how, "num_envs": num_envs}
        print(json.dumps(row | {"steps_per_second": rate}))
