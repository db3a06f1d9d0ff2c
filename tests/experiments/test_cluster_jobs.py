"""The job scripts run here: two processes on this machine stand in for a cluster."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import tokenizer_folders
import yaml

from rljax.rlhf import Transformer, TransformerConfig, save_language_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "experiments" / "cluster"
PPO = [
    ROOT / "experiments" / "cartpole_ppo.py", "--num-seeds", "2", "--num-envs", "4",
    "--num-steps", "8", "--num-epochs", "1", "--num-minibatches", "1",
    "--num-evaluations", "4", "--num-episodes", "4", "--total-steps", "100_000",
]  # fmt: skip
SWEEP = [
    ROOT / "experiments" / "sweep_cartpole.py", "--learning-rates", "1e-3", "1e-2",
    "--num-seeds", "2", "--num-envs", "4", "--num-steps", "32", "--num-epochs", "1",
    "--total-steps", "2048", "--num-evaluations", "2", "--num-episodes", "4",
]  # fmt: skip


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """As on a cluster: nothing of this process's settings, a cache of its own."""
    cache = str(tmp_path_factory.mktemp("cache"))
    python = f"{Path(sys.executable).parent}:{CLUSTER / 'stand_in'}"
    path = f"{python}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "JAX_COMPILATION_CACHE_DIR": cache}


@pytest.fixture(scope="module")
def slurm(environment):
    """Starts a command as `sbatch job.slurm` does."""

    def start(*command, **variables):
        job = str(random.randrange(2**20))  # JAX makes a port of it
        return begin(
            ["bash", CLUSTER / "job.slurm", *command],
            environment | {"SLURM_JOB_ID": job} | variables,
        )

    return start


def begin(command, environment):
    return subprocess.Popen(
        [str(x) for x in command],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process, status=0):
    """What a job prints: the last line of stdout as JSON, and stderr."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == status, err
    return json.loads(out.splitlines()[-1]) if status == 0 else None, err


def test_a_sweep_under_slurm(slurm, tmp_path, environment):
    result, err = finished(slurm("python", *SWEEP, "--out", tmp_path / "two"))
    assert "scontrol" not in err
    alone, _ = finished(
        begin(["python", *SWEEP, "--out", tmp_path / "one"], environment)
    )
    for name in ("env_steps", "best"):
        assert result[name] == alone[name]
    one, two = (tmp_path / name / "results.csv" for name in ("one", "two"))
    runs = [path.read_text().splitlines()[1:] for path in (one, two)]
    assert len(runs[0]) == 4 * 3  # evaluations
    which = [[line.split(",")[:4] for line in lines] for lines in runs]
    assert which[0] == which[1]  # configuration, seed, learning rate, steps
    again, _ = finished(slurm("python", *SWEEP, "--out", tmp_path / "two"))
    assert again == result


@pytest.fixture(scope="module")
def straight(slurm, tmp_path_factory):
    """What training gives that nothing interrupts."""
    out = tmp_path_factory.mktemp("straight") / "run"
    return finished(slurm("python", *PPO, "--out", out))[0]


SAME = "env_steps", "returns", "returns_sampled"


def test_a_job_that_gets_sigterm_saves_starts_again_and_ends_the_same(
    slurm, straight, tmp_path
):
    command = "python", *PPO, "--out", tmp_path / "run"
    process = slurm(*command)
    wait_for(tmp_path / "run" / "metrics.jsonl")
    (srun,) = children(process.pid)
    os.kill(srun, signal.SIGTERM)  # as --signal=TERM does, to the processes of the step
    _, err = finished(process, status=1)
    assert len(re.findall("error in process . *: stopped by SIGTERM", err)) == 2
    assert "scontrol requeue" in err
    result, _ = finished(slurm(*command, SLURM_RESTART_COUNT="1"))
    assert [result[name] for name in SAME] == [straight[name] for name in SAME]


def test_a_lost_process_ends_the_job_which_goes_on(slurm, straight, tmp_path):
    command = "python", *PPO, "--checkpoint-every", "2", "--out", tmp_path / "run"
    process = slurm(*command)
    wait_for(tmp_path / "run" / "checkpoints")
    (srun,) = children(process.pid)
    os.kill(max(children(srun)), signal.SIGKILL)
    began = time.monotonic()
    _, err = finished(process, status=137)
    assert time.monotonic() - began < 60
    assert "scontrol requeue" in err
    result, _ = finished(slurm(*command, SLURM_RESTART_COUNT="1"))
    assert [result[name] for name in SAME] == [straight[name] for name in SAME]


def test_bad_usage_is_not_tried_again(slurm, tmp_path):
    _, err = finished(slurm("python", *PPO, "--num-seeds", "0"), status=2)
    assert "scontrol" not in err


def wait_for(path):
    """Waits for a file or a folder that is not empty."""

    def is_empty():
        return not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0

    while not path.exists() or is_empty():
        time.sleep(0.05)


def children(process):
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(x) for x in text.split()]


@pytest.fixture(scope="module")
def preferences(tmp_path_factory):
    """A tiny language model's folder, and preferences for what is warm."""
    folder = tmp_path_factory.mktemp("reward")
    shape = TransformerConfig(
        vocab_size=400, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2,
        num_kv_heads=1, head_dim=8, max_length=64,
    )  # fmt: skip
    module, first = Transformer(shape), jnp.zeros((1, 1), jnp.int32)
    variables = module.init(jax.random.key(0), first, method="logits")
    save_language_model(folder / "model", module, variables)
    tokenizer_folders.write_byte_level(folder / "model")
    rows = [
        {"prompt": "Is it warm?", "chosen": f" Very warm {i}", "rejected": f" cold {i}"}
        for i in range(40)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "pairs.jsonl").write_text(lines)
    return folder


@pytest.fixture
def reward(preferences):
    return [
        "rljax", "reward", "--model", preferences / "model", "--data",
        preferences / "pairs.jsonl", "--batch-size", "8", "--num-microbatches", "2",
    ]  # fmt: skip


def test_reward_training_under_slurm(slurm, reward, tmp_path, environment):
    result, _ = finished(slurm(*reward, "--out", tmp_path / "two"))
    alone, _ = finished(begin([*reward, "--out", tmp_path / "one"], environment))
    assert result["pair_accuracy"] == alone["pair_accuracy"]
    assert result["nll"] == pytest.approx(alone["nll"], abs=1e-4)
    assert (tmp_path / "two" / "model" / "model.safetensors").exists()
    assert (tmp_path / "two" / "evaluation.html").exists()


@pytest.mark.parametrize("which", ["sweep", "reward"])
def test_the_job_of_kubernetes(which, tmp_path, environment, preferences):
    """Its command and arguments, with this machine for the pods."""
    text = (CLUSTER / "job.yaml").read_text()
    if which == "reward":
        text = re.sub(r" +command: .*\n( +)# (command: )", r"\1\2", text)
    _, job = yaml.safe_load_all(text)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    port = random.randrange(20_000, 30_000)
    (tmp_path / "shared").mkdir()
    if which == "reward":
        shutil.copytree(preferences, tmp_path / "shared", dirs_exist_ok=True)

    def start(index):
        here = {
            "$(JOB_COMPLETION_INDEX)": str(index),
            "rljax-0.rljax:8476": f"localhost:{port}",
            "/shared": str(tmp_path / "shared"),
        }
        command = [*container["command"], *container["args"]]
        for there, value in here.items():
            command = [x.replace(there, value) for x in command]
        small = [*SWEEP[1:]] if which == "sweep" else ["--batch-size", "8"]
        return subprocess.Popen(
            [*command, *small], env=environment, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    processes = [start(0), start(1)]
    result, _ = finished(processes[0])
    out, err = processes[1].communicate(timeout=600)
    assert (processes[1].returncode, out) == (0, ""), err
    stored = (tmp_path / "shared" / "runs" / "first" / "result.json").read_text()
    assert json.loads(stored) == result
