"""Our losses and gradients in the cases of tests/golden/make_training.py."""

import functools
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rljax.rlhf.data.rows import Completions, Rankings
from rljax.rlhf.pretrained import load_language_model, load_reward_model
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


class Case(NamedTuple):
    """A loss: of a reward model, or of a language model."""

    kind: str
    margins: bool = False
    centring: float = 0.0
    starts: bool = True


CASES = {
    "plain": Case("reward"),
    "margin": Case("reward", margins=True),
    "centred": Case("reward", centring=0.1),
    "completions": Case("lm"),
    "texts": Case("lm", starts=False),
}


def padded(rows):
    """Rows on the right of which is what a mistake would take for tokens."""
    ids = np.full((len(rows), max(map(len, rows))), 7, np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids, np.array([len(row) for row in rows], np.int32)


def our_gradient(folder, rows, case):
    """The loss of a batch and its gradient, of a learner's first update in two parts."""
    sizes = {"batch_size": 8, "num_microbatches": 2, "lengths": (12, 20)}
    if case.kind == "reward":
        module, variables = load_reward_model(folder)
        ids, lengths = padded(rows["chosen"] + rows["rejected"])
        ids = ids.reshape(2, 8, -1).swapaxes(0, 1)
        margins = np.array(rows["margins"]) if case.margins else None
        data = Rankings.of(ids, lengths.reshape(2, 8).T, margins)
        algorithm = reward_training(module, RewardConfig(new_head=False, **sizes))
        task = RewardTask(data, variables["params"])
        hyperparams = RewardHyperparams(max_grad_norm=np.inf, centring=case.centring)
    else:
        module, variables = load_language_model(folder)
        ids, lengths = padded(rows["texts"])
        starts = np.array(rows["starts"]) * case.starts
        data = Completions(*map(jnp.int32, (ids, lengths, starts)))
        algorithm = fine_tuning(module, SFTConfig(**sizes))
        task = SFTTask(data, variables["params"])
        hyperparams = SFTHyperparams(max_grad_norm=np.inf)

    state, metrics = first_update(algorithm)(hyperparams, task)
    (adam,) = (
        part
        for part in jax.tree.leaves(state.opt_state, is_leaf=is_adam)
        if is_adam(part)
    )
    gradient = jax.tree.map(lambda mean: mean / (1 - 0.9), adam.mu)  # Adam's first mean
    return float(metrics["loss"].value), gradient


@functools.cache
def first_update(algorithm):
    """Compiled once for all cases of a learner."""

    def update(hyperparams, task):
        return algorithm.step(
            algorithm.init(jax.random.key(0), hyperparams, task), task
        )

    return jax.jit(update)


def is_adam(part):
    return isinstance(part, optax.ScaleByAdamState)


def largest_difference(folder, gradient, file):
    """Of a file's gradient, with transformers' names: of each leaf over the leaf's norm."""
    with tempfile.TemporaryDirectory() as name:
        there = Path(name)
        shutil.copy(folder / "config.json", there)
        shutil.copy(file, there / "model.safetensors")
        load = load_reward_model if "head" in gradient else load_language_model
        want = load(there)[1]["params"]
    assert jax.tree.structure(want) == jax.tree.structure(gradient)
    want, got = map(jax.tree.leaves, (want, gradient))
    # Biases of keys change nothing: their gradient is nothing but rounding.
    least = 1e-2 * np.sqrt(sum(np.sum(a**2) for a in want))
    return max(
        np.linalg.norm(a - b) / max(np.linalg.norm(a), least)
        for a, b in zip(want, got, strict=True)
    )
