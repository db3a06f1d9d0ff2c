"""Supervised fine-tuning: a language model learns to give the completions of a data set.

The loss is the mean, over all completions' tokens in a batch, of minus their
log-probability: prompts are read and not learned. However a batch is cut into
microbatches, it is divided by the batch's number of tokens.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rljax.base import Algorithm, Mean, Metrics, Params
from rljax.numerics.validation import check_positive_integers, check_scalars
from rljax.rlhf.data.rows import Completions
from rljax.rlhf.models.log_probs import token_log_probs
from rljax.rlhf.models.trainable import Everything, Trainable, adapt, join, split
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.training.losses import completion_loss
from rljax.rlhf.training.microbatches import check_divides, check_rows, gradients
from rljax.rlhf.training.optimizer import (
    adamw,
    batch_of_rows,
    check_optimizer,
    learning_rate,
)
from rljax.rlhf.training.start import with_drawn


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """Everything that fixes an array's shape or the program's structure. Static.

    Raises:
        ValueError: a size is not positive, or the batch cannot be cut into microbatches.
    """

    batch_size: int = 32
    """Rows of an update."""
    num_microbatches: int = 1
    """Parts of a batch that are computed one after another, with less memory."""
    lengths: tuple[int, ...] = ()
    """Tokens that a microbatch may be cut to, each a program; () compiles one."""
    trainable: Trainable = dataclasses.field(default_factory=Everything)
    """What of the model is trained."""

    def __post_init__(self):
        check_positive_integers(self, "batch_size", "num_microbatches")
        check_divides(self)


class SFTHyperparams(struct.PyTreeNode):
    """Everything that may be traced: sweep any of these with `jax.vmap`."""

    learning_rate: float = 3e-4
    """AdamW's step size after the warm-up."""
    warmup_updates: float = 0.0
    """Updates over which it rises linearly."""
    decay_updates: float = math.inf
    """Updates after which, falling as half a cosine, it is 0; inf: constant."""
    weight_decay: float = 0.0
    """Of matrices, apart from the gradient."""
    max_grad_norm: float = 1.0
    """Bound on the global norm of the gradient."""


class SFTTask(struct.PyTreeNode):
    """What is read: the rows, and the model's parameters before training."""

    rows: Completions
    params: Params


class SFTState(struct.PyTreeNode):
    """All that changes in a run: checkpoint this and nothing else."""

    key: jax.Array
    step: jax.Array  # int32, calls of `Algorithm.step` so far
    params: Params  # those that are trained
    opt_state: optax.OptState
    hyperparams: SFTHyperparams


def check_hyperparams(hyperparams: SFTHyperparams) -> None:
    """Raises a ValueError for a value out of its range; values may be arrays."""
    check_optimizer(hyperparams)


@functools.cache
def fine_tuning(module: Transformer, config: SFTConfig) -> Algorithm[SFTState]:
    """Makes the fine-tuning of one language model with one set of sizes. Cached.

    Args:
        module: the model, plain; it is adapted to what is trained.
        config: sizes, and what is trained.

    Returns:
        An algorithm whose hyperparameters are `SFTHyperparams` and whose task is an
        `SFTTask`. Its metrics: `loss` and `accuracy` (of the most probable token) for each
        learned token, `tokens` of a row, `grad_norm` before clipping, `learning_rate`.
    """
    module = adapt(module, config.trainable)
    fixed_layers = module.config.fixed_layers

    def init(key: jax.Array, hyperparams: SFTHyperparams, task: SFTTask) -> SFTState:
        check_scalars(hyperparams)
        key, model_key = jax.random.split(key)
        ids = jnp.zeros((1, 1), jnp.int32)
        drawn = module.init(model_key, ids, method="logits")["params"]
        params = with_drawn(task.params, drawn)
        learned, _ = split(params, config.trainable, fixed_layers)
        hyperparams = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hyperparams)
        return SFTState(
            key=key,
            step=jnp.int32(0),
            params=learned,
            opt_state=adamw(hyperparams, jnp.int32(0)).init(learned),
            hyperparams=hyperparams,
        )

    def step(state: SFTState, task: SFTTask) -> tuple[SFTState, Metrics]:
        """One update, on a batch of rows."""
        _, fixed = split(task.params, config.trainable, fixed_layers)
        num_rows = len(task.rows.longest)
        chosen = batch_of_rows(state.key, state.step, num_rows, config.batch_size)
        batch = jax.tree.map(lambda x: x[chosen], task.rows)
        count = jnp.maximum(batch.num_learned.sum(), 1).astype(jnp.float32)

        def loss(learned, rows):
            losses, sums = _losses(module, join(learned, fixed), rows)
            return losses.sum() / count, sums

        gradient, sums = gradients(
            loss,
            state.params,
            batch,
            num_microbatches=config.num_microbatches,
            lengths=config.lengths or (batch.ids.shape[-1],),
        )
        optimizer = adamw(state.hyperparams, state.step)
        change, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        metrics = {name: Mean(sums[name], count) for name in ("loss", "accuracy")}
        metrics["tokens"] = Mean(sums["tokens"], jnp.float32(config.batch_size))
        metrics["grad_norm"] = Mean.of(optax.tree.norm(gradient))
        metrics["learning_rate"] = Mean.of(learning_rate(state.hyperparams, state.step))
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, change),
            opt_state=opt_state,
        )
        return state, metrics

    def check(state: SFTState, task: SFTTask) -> None:
        """What `train` calls before it compiles."""
        check_hyperparams(state.hyperparams)
        check_rows(task.rows, config.batch_size, config.lengths)

    return Algorithm(init, step, check)


def _losses(
    module: Transformer, params: Params, rows: Completions
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the losses `[B]` of rows, and sums over them for metrics."""
    apply: Any = module.apply
    logits = apply({"params": params}, rows.ids, method="logits")
    places = jnp.arange(1, rows.ids.shape[-1])[None]
    learned = (places >= rows.starts[:, None]) & (places < rows.lengths[:, None])
    losses = completion_loss(token_log_probs(logits, rows.ids), learned)
    right = (logits[:, :-1].argmax(axis=-1) == rows.ids[:, 1:]) & learned
    sums = {"loss": losses.sum(), "accuracy": right.sum(), "tokens": rows.lengths.sum()}
    return losses, jax.tree.map(lambda x: x.astype(jnp.float32), sums)


Config, Hyperparams, make = SFTConfig, SFTHyperparams, fine_tuning
