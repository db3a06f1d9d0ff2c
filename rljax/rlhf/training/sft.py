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
from flax import struct

from rljax.base import Algorithm, Mean, Metrics, Params
from rljax.numerics.validation import check_positive_integers
from rljax.rlhf.data.rows import Completions, learned_places
from rljax.rlhf.models.log_probs import token_log_probs
from rljax.rlhf.models.trainable import Everything, Trainable, adapt
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.training.losses import completion_loss
from rljax.rlhf.training.microbatches import check_divides, check_rows
from rljax.rlhf.training.optimizer import check_optimizer
from rljax.rlhf.training.start import language_model_start
from rljax.rlhf.training.update import (
    TrainingState,
    draw_batch,
    start_state,
    take_update,
)


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

    @property
    def microbatch_size(self) -> int:
        """Rows that are computed together, which devices share."""
        return self.batch_size // self.num_microbatches


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


def check_hyperparams(hyperparams: SFTHyperparams) -> None:
    """Raises a ValueError for a value out of its range; values may be arrays."""
    check_optimizer(hyperparams)


@functools.cache
def fine_tuning(module: Transformer, config: SFTConfig) -> Algorithm[TrainingState]:
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

    def init(
        key: jax.Array, hyperparams: SFTHyperparams, task: SFTTask
    ) -> TrainingState:
        key, model_key = jax.random.split(key)
        params = language_model_start(model_key, module, task.params)
        return start_state(key, hyperparams, params, config, fixed_layers)

    def step(state: TrainingState, task: SFTTask) -> tuple[TrainingState, Metrics]:
        """One update, on a batch of rows."""
        batch = draw_batch(state, task.rows, config)
        count = jnp.maximum(batch.num_learned.sum(), 1).astype(jnp.float32)

        def loss(params, rows):
            losses, sums = _losses(module, params, rows)
            return losses.sum() / count, sums

        state, sums, metrics = take_update(
            state, task.params, batch, loss, config, fixed_layers
        )
        metrics |= {name: Mean(sums[name], count) for name in ("loss", "accuracy")}
        metrics["tokens"] = Mean(sums["tokens"], jnp.float32(config.batch_size))
        return state, metrics

    def check(state: TrainingState, task: SFTTask) -> None:
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
    learned = learned_places(rows.starts, rows.lengths, rows.ids.shape[-1])
    losses = completion_loss(token_log_probs(logits, rows.ids), learned)
    right = (logits[:, :-1].argmax(axis=-1) == rows.ids[:, 1:]) & learned
    sums = {"loss": losses.sum(), "accuracy": right.sum(), "tokens": rows.lengths.sum()}
    return losses, jax.tree.map(lambda x: x.astype(jnp.float32), sums)


Config, Hyperparams, make = SFTConfig, SFTHyperparams, fine_tuning
