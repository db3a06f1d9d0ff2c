"""What only fresh processes can show: no deadlock, nothing lost, nothing compiled twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import (
    ActorCritic,
    CartPole,
    CartPoleParams,
    PPOConfig,
    PPOHyperparams,
    population,
    ppo,
)
from rljax.training import checkpoint
from rljax.training.populations import replicate

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "experiments" / "cartpole_ppo.py"
pytestmark = [pytest.mark.slow, pytest.mark.optimized]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}


def test_twenty_processes_each_training_sixteen_seeds_all_finish(tmp_path):
    """Without a compile cache: a deadlock of LAPACK calls came at random."""
    code = """
import jax
from rljax import ActorCritic, CartPole, CartPoleParams, PPOConfig, PPOHyperparams
from rljax import population, ppo
from rljax.training.loop import train
from rljax.training.populations import replicate
config = PPOConfig(num_envs=4, num_steps=32)
agents = population(ppo(CartPole(), ActorCritic(num_actions=2), config))
keys = jax.random.split(jax.random.key(0), 16)
task = CartPoleParams()
state = jax.jit(agents.init)(keys, replicate(PPOHyperparams(), 16), task)
state = train(agents, state, task, 5)
print(state.step.tolist() == [5] * 16)
"""
    fresh = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    for _ in range(20):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=120,
            env=fresh,
        )
        assert done.stdout == "True\n", done.stderr


def test_twenty_runs_killed_at_random_end_as_the_uninterrupted_one(
    tmp_path, environment
):
    """3,000,000 steps; SIGKILL at a random moment, twice, then the same command."""
    flags = [
        *("--total-steps", "3_000_000", "--num-seeds", "1", "--num-envs", "256"),
        *("--num-epochs", "2", "--checkpoint-every", "0.5", "--num-evaluations", "5"),
    ]

    def start(out):
        return begin(SCRIPT, environment, *flags, "--out", out)

    def result(process):
        last = finished(process)
        return last["returns"], last["returns_sampled"], last["env_steps"]

    wanted = result(start(tmp_path / "warm up"))
    began = time.monotonic()
    assert result(start(tmp_path / "straight")) == wanted
    seconds = time.monotonic() - began

    draw, killed = random.Random(0), 0
    for i in range(20):
        for _ in range(2):
            process = start(tmp_path / str(i))
            killed += killed_after(process, draw.uniform(0, 0.7 * seconds))
        assert result(start(tmp_path / str(i))) == wanted
        assert arrays(tmp_path / str(i)) == arrays(tmp_path / "straight")
    assert killed >= 30


def test_sweeps_killed_at_random_end_as_the_uninterrupted_one(tmp_path, environment):
    """In parts and in a part's middle, with rungs; SIGKILL twice, then once more."""
    flags = [
        *("--learning-rates", "1e-4", "1e-3", "3e-3", "1e-2", "--num-seeds", "4"),
        *("--total-steps", "200_000", "--rungs", "0.5", "--checkpoint-every", "0.2"),
    ]

    def start(out):
        script = ROOT / "experiments" / "sweep_cartpole.py"
        return begin(script, environment, *flags, "--out", out)

    def result(out):
        last = finished(start(out))
        table = (out / "results.csv").read_text()
        return table, last["best"], last["returns"], last["updates_saved"]

    wanted = result(tmp_path / "warm up")
    began = time.monotonic()
    assert result(tmp_path / "straight") == wanted
    seconds = time.monotonic() - began

    draw, killed = random.Random(0), 0
    for i in range(5):
        for _ in range(2):
            process = start(tmp_path / str(i))
            killed += killed_after(process, draw.uniform(0.3 * seconds, 0.9 * seconds))
        assert result(tmp_path / str(i)) == wanted
    assert killed >= 5


def begin(script, environment, *flags):
    return subprocess.Popen(
        [sys.executable, script, *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def finished(process):
    """What a process prints as its result."""
    last = json.loads(process.communicate()[0].splitlines()[-1])
    assert process.returncode == 0
    return last


def killed_after(process, seconds):
    """Whether a process was still there to be killed."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode != 0


def arrays(out):
    """The bits of everything in a run's last checkpoint."""
    config = PPOConfig(num_envs=256, num_steps=32, num_epochs=2)
    agents = population(ppo(CartPole(), ActorCritic(num_actions=2), config))
    keys = jax.random.split(jax.random.key(0), 1)
    hyperparams = replicate(PPOHyperparams(), 1)
    like = jax.eval_shape(agents.init, keys, hyperparams, CartPoleParams())
    state, _ = checkpoint.restore(max((out / "checkpoints").iterdir()), like)
    return [bits(x) for x in jax.tree.leaves(state)]


def bits(x):
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x).tobytes()


def test_programs_are_compiled_once_and_for_all(tmp_path):
    """Evaluations, checkpoints, logs and updates add none; a second start misses none.

    Every program that is compiled leaves a file in the cache.
    """

    def programs(name, cache, *flags):
        folder = tmp_path / cache
        subprocess.run(
            [
                sys.executable, SCRIPT, "--num-seeds", "2", "--num-episodes", "4",
                "--checkpoint-every", "0.01", "--out", tmp_path / name, *flags,
            ],
            check=True,
            capture_output=True,
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder)},
        )  # fmt: skip
        return {path.name for path in folder.iterdir() if path.name.endswith("-cache")}

    short = ("--total-steps", "5000", "--num-evaluations", "2")
    first = programs("first", "a", *short)
    assert first
    assert programs("second", "a", *short) == first
    longer = ("--total-steps", "20000", "--num-evaluations", "10")
    assert len(programs("third", "b", *longer)) == len(first)
