"""Learners of a tiny language, to train over some devices or processes.

    python tests/language_learners.py NAME DEVICES MODEL OUT [HOST:PORT,N,I]

takes two updates on DEVICES devices of this process, MODEL of which divide parameters, and
writes what it began and ended with to OUT, a file of arrays.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rljax.numerics.processes import is_main, to_host
from rljax.numerics.random import is_key
from rljax.numerics.sharding import make_mesh
from rljax.rlhf import policy
from rljax.rlhf.data.rows import Completions, Rankings
from rljax.rlhf.direct import (
    DirectConfig,
    DirectHyperparams,
    DirectTask,
    direct_alignment,
)
from rljax.rlhf.models import RewardModel, Transformer, TransformerConfig
from rljax.rlhf.policy.rewards import model_reward
from rljax.rlhf.training import (
    RewardConfig,
    RewardHyperparams,
    RewardTask,
    SFTConfig,
    SFTHyperparams,
    SFTTask,
    fine_tuning,
    reward_training,
)
from rljax.training.loop import train
from rljax.training.sharded import place, sharded

VOCABULARY, LENGTH, NUM_ROWS, BATCH = 96, 10, 32, 16
SHAPE = TransformerConfig(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2,
    num_kv_heads=2, head_dim=16, max_length=32, tie_embeddings=True,
)  # fmt: skip
MODULE, JUDGE = Transformer(SHAPE), RewardModel(SHAPE)


def numbers_like(shapes, seed):
    """Parameters of these shapes, without compiling anything."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.float32(0.2 * rng.normal(size=x.shape)), shapes)


def variables_of(module, *row, seed=0, **method):
    shapes = jax.eval_shape(
        lambda key: module.init(key, *row, **method), jax.random.key(0)
    )
    return numbers_like(shapes, seed)


def case(name):
    """Returns the algorithm, the hyperparameters and the task of a learner."""
    rng = np.random.default_rng(1)
    ids, ones = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    params = variables_of(MODULE, ids, method="logits")["params"]
    several = () if name in ("sft", "grpo") else (2,)
    ids_of = jnp.int32(rng.integers(1, VOCABULARY, (NUM_ROWS, *several, LENGTH)))
    lengths = jnp.int32(rng.integers(4, LENGTH + 1, (NUM_ROWS, *several)))
    starts = jnp.int32(rng.integers(1, 4, lengths.shape))
    rates = {"learning_rate": 1e-3}
    if name == "sft":
        config = SFTConfig(batch_size=BATCH, num_microbatches=2)
        rows = Completions(ids=ids_of, lengths=lengths, starts=starts)
        task = SFTTask(rows, params)
        return fine_tuning(MODULE, config), SFTHyperparams(**rates), task
    if name == "reward":
        config = RewardConfig(batch_size=BATCH)
        task = RewardTask(Rankings.of(ids_of, lengths), {"trunk": params})
        return reward_training(JUDGE, config), RewardHyperparams(**rates), task
    if name == "dpo":
        config = DirectConfig(batch_size=BATCH)
        rows = Rankings.of(ids_of, lengths, None, None, starts)
        rows = rows.replace(reference=jnp.full(lengths.shape, -30.0))
        task = DirectTask(rows, params)
        return direct_alignment(MODULE, config), DirectHyperparams(**rates), task
    task = policy.PolicyTask(
        ids_of, lengths, params, variables_of(JUDGE, ids, ones, seed=2)
    )
    hyperparams = policy.grpo()[1].replace(**rates)
    return grpo().algorithm, hyperparams, task


def grpo():
    """The learner of the case of that name."""
    config = policy.PolicyConfig(
        method=policy.grpo()[0], num_prompts=4, group_size=4, max_new_tokens=6,
        stop_ids=(0,),
    )  # fmt: skip
    return policy.policy_optimization(MODULE, config, model_reward(JUDGE))


def raw(tree):
    """Returns the numbers of a tree on the host, of keys their data."""
    leaves = jax.tree.leaves(to_host(tree))
    return [
        np.asarray(jax.random.key_data(x)) if is_key(x) else np.asarray(x)
        for x in leaves
    ]


def bytes_held(*trees):
    """Returns bytes of a tree's arrays that one device holds, and that there are."""
    leaves = [x for x in jax.tree.leaves(trees) if not is_key(x)]
    held = sum(x.addressable_shards[0].data.nbytes for x in leaves)
    return held, sum(x.nbytes for x in leaves)


def two_updates(name, mesh):
    """Returns arrays of the start, of the state after two updates, and the losses."""
    algorithm, hyperparams, task = case(name)
    algorithm, task = sharded(algorithm, mesh), place(task, mesh)
    state = jax.jit(algorithm.init)(jax.random.key(3), hyperparams, task)
    found = {f"start_{i}": x for i, x in enumerate(raw(state))}
    losses = []

    def on_log(state, entry):
        losses.append(float(entry.metrics["loss"]))

    state = train(algorithm, state, task, 2, log_every=1, on_log=on_log)
    found |= {f"end_{i}": x for i, x in enumerate(raw(state))}
    held = bytes_held(
        state.params, state.opt_state, task.params, getattr(task, "reward", None)
    )
    key = raw(state.key)[0]
    return found | {"losses": np.array(losses), "bytes": np.array(held), "key": key}


if __name__ == "__main__":
    name, devices, model, out, *where = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(devices))
    if where:
        from rljax.training.distributed import connect

        connect(*where)
    found = two_updates(name, make_mesh(model=int(model)))
    if is_main():
        np.savez(Path(out), **found)
