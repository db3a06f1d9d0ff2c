"""RLHF's learners over a mesh of devices: what they learn is what one device learns."""

import dataclasses
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import language_learners as learners
import numpy as np
import optax
import pytest
import tokenizer_folders
from jax.sharding import AbstractMesh

from rljax.numerics.sharding import AXES, gathered, make_mesh, split_rows
from rljax.rlhf.data.encoding import encoding_config
from rljax.rlhf.data.pairs import Pair
from rljax.rlhf.data.tokenizer import load_tokenizer
from rljax.rlhf.models import RewardModel, Transformer, TransformerConfig
from rljax.rlhf.policy.policy_optimization import PolicyTask
from rljax.rlhf.policy.sharded_learner import sharded_learner
from rljax.rlhf.scoring import Scorer
from rljax.training.sharded import fetched, layout, mesh_for, place, sharded

SCRIPT = Path(learners.__file__)
SMOLLM2 = TransformerConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_layers=30,
    num_heads=9, num_kv_heads=3, head_dim=64, max_length=2048, tie_embeddings=True,
)  # fmt: skip


def test_without_a_mesh_a_program_is_the_same():
    tree = {"a": jnp.zeros((4, 3)), "key": jax.random.key(0)}
    assert split_rows(tree) is tree
    assert gathered(tree) is tree
    algorithm, _, task = learners.case("sft")
    mesh = make_mesh(jax.devices()[:1])
    assert sharded(algorithm, mesh) is algorithm
    assert place(task, mesh) is task
    assert fetched(task, mesh) is task
    learner = learners.grpo()
    assert sharded_learner(learner, mesh) is learner


@pytest.mark.parametrize(
    "name", ["sft", "reward", pytest.param("dpo", marks=pytest.mark.slow), "grpo"]
)
def test_two_devices_with_half_of_the_parameters_each_learn_the_same(name):
    algorithm, hyperparams, task = learners.case(name)
    mesh = make_mesh(jax.devices()[:2], model=2)
    divided, placed = sharded(algorithm, mesh), place(task, mesh)
    state = jax.jit(algorithm.init)(jax.random.key(3), hyperparams, task)
    parts = place(state, mesh)
    step = jax.jit(algorithm.step)
    step_of_parts = jax.jit(divided.step).lower(parts, placed).compile()
    for _ in range(2):
        state, one = step(state, task)
        parts, two = step_of_parts(parts, placed)
        np.testing.assert_allclose(
            float(one["loss"].value), float(two["loss"].value), rtol=1e-5, atol=1e-6
        )
    np.testing.assert_array_equal(learners.raw(state.key), learners.raw(parts.key))
    held, all_bytes = learners.bytes_held(parts.params, parts.opt_state)
    assert held == pytest.approx(all_bytes / 2, rel=0.1)
    assert not gathered_logits(step_of_parts.as_text())


def gathered_logits(program):
    """Returns the collectives of a program that move logits `[B, L, V]`."""
    moved = re.findall(
        r"= (\S+) (?:all-gather|all-to-all|collective-permute)\(", program
    )
    return [x for x in moved if re.match(rf"f32\[\d+,\d+,{learners.VOCABULARY}\]", x)]


def test_what_is_sampled_is_the_same_and_lies_by_rows():
    learner, mesh = learners.grpo(), make_mesh(jax.devices()[:2], model=2)
    algorithm, hyperparams, task = learners.case("grpo")
    state = jax.jit(algorithm.init)(jax.random.key(3), hyperparams, task)
    after, whole = jax.jit(learner.sample)(state, task)
    divided, placed = sharded_learner(learner, mesh), place(task, mesh)
    parts = jax.jit(divided.algorithm.init)(jax.random.key(3), hyperparams, placed)
    after_parts, samples = jax.jit(divided.sample)(parts, placed)
    for name in ("ids", "lengths", "starts", "prompt_index", "stopped"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(samples, name))
    np.testing.assert_allclose(whole.log_probs, samples.log_probs, atol=1e-5)
    assert samples.ids.addressable_shards[0].data.shape[0] == len(whole.ids) // 2
    np.testing.assert_array_equal(
        *(learners.raw(x.key)[0] for x in (after, after_parts))
    )


@pytest.mark.parametrize("count", [4, 8])
def test_of_a_real_model_a_device_holds_its_share(count):
    """Parameters, both moments, the task's parameters and the reward model's variables."""
    ids, ones = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    key = jax.random.key(0)
    params = jax.eval_shape(
        lambda: Transformer(SMOLLM2).init(key, ids, method="logits")
    )["params"]
    judge = jax.eval_shape(lambda: RewardModel(SMOLLM2).init(key, ids, ones))
    state = {
        "params": params,
        "opt_state": jax.eval_shape(optax.adamw(1e-3).init, params),
    }
    task = PolicyTask(ids, ones, params, judge)
    mesh = AbstractMesh((1, 1, count), AXES)
    for tree in (state, {"params": params}, {"reward": judge}, task):
        total, held = 0, 0
        for x, spec in zip(
            jax.tree.leaves(tree), jax.tree.leaves(layout(tree, mesh)), strict=True
        ):
            size = math.prod(x.shape) * x.dtype.itemsize
            total += size
            held += size // math.prod(mesh.shape[axis] for axis in spec if axis)
        assert held == pytest.approx(total / count, rel=0.1)


def test_a_scorer_of_divided_parameters_gives_the_same_scores(tmp_path):
    shape = dataclasses.replace(learners.SHAPE, vocab_size=430)
    module, row = RewardModel(shape), (jnp.zeros((1, 1), jnp.int32), jnp.ones(1, int))
    variables = learners.variables_of(module, *row)
    variables["scale"] = {"mean": jnp.float32(0), "std": jnp.float32(1)}
    tokenizer = load_tokenizer(tokenizer_folders.write_byte_level(tmp_path))
    encoding = encoding_config(tokenizer, max_length=16, template=False)
    pairs = [("Is it warm?", f" cold {i}") for i in range(6)]
    found = []
    for where in (
        {"devices": jax.devices()[:1]},
        {"mesh": make_mesh(jax.devices()[:2], model=2)},
    ):
        scorer = Scorer(module, variables, tokenizer, encoding, max_tokens=32, **where)
        found.append(scorer.score([Pair(*pair) for pair in pairs]))
    np.testing.assert_allclose(*found, atol=1e-5)
    held, total = learners.bytes_held(scorer._variables)
    assert held == pytest.approx(total / 2, rel=0.1)


def test_devices_that_cannot_share_the_rows_are_left_idle():
    assert mesh_for(6).size == 2
    assert mesh_for(3).size == 1


def start(*arguments):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "JAX_ENABLE_COMPILATION_CACHE": "0",  # only what is compiled can warn
    }
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(*processes):
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        assert "rematerialization" not in errors


def check_same(one, other, tolerance):
    # GRPO's losses are near 0 in themselves.
    np.testing.assert_allclose(
        one["losses"], other["losses"], rtol=tolerance, atol=1e-6
    )
    np.testing.assert_array_equal(one["key"], other["key"])
    for name in one.files:
        if name.startswith("start_"):
            np.testing.assert_array_equal(one[name], other[name])
        if name.startswith("end_"):
            np.testing.assert_allclose(one[name], other[name], atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "reward", "dpo", "grpo"])
def test_on_four_and_eight_devices_bytes_fall_and_losses_are_the_same(name, tmp_path):
    found = {}
    for count in (1, 4, 8):
        out = tmp_path / f"{count}.npz"
        finished(start(name, count, count, out))
        found[count] = np.load(out)
    for count in (4, 8):
        held, all_bytes = found[count]["bytes"]
        assert held == pytest.approx(all_bytes / count, rel=0.1)
        np.testing.assert_allclose(
            found[1]["losses"], found[count]["losses"], rtol=1e-5, atol=1e-6
        )
        check_same(found[1], found[count], 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reward", "grpo"])
def test_two_processes_learn_what_one_does(name, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    two, one, alone = (tmp_path / f"{x}.npz" for x in ("two", "one", "alone"))
    finished(*(start(name, 1, 1, two, f"{address},2,{i}") for i in range(2)))
    finished(start(name, 2, 1, one))
    finished(start(name, 1, 1, alone))
    check_same(np.load(two), np.load(one), 1e-4)
    check_same(np.load(two), np.load(alone), 1e-4)
