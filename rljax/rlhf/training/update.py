"""What one update of a training set's learner consists of, whatever its loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rljax.base import Mean, Metrics, Params
from rljax.numerics.validation import check_scalars
from rljax.rlhf.models.trainable import join, split
from rljax.rlhf.training.microbatches import Sums, gradients
from rljax.rlhf.training.optimizer import adamw, batch_of_rows, learning_rate


class TrainingState(struct.PyTreeNode):
    """All that changes in a run: checkpoint this and nothing else."""

    key: jax.Array
    step: jax.Array  # int32, calls of `Algorithm.step` so far
    params: Params  # those that are trained
    opt_state: optax.OptState
    hyperparams: Any


def start_state(
    key: jax.Array, hyperparams: Any, params: Params, config: Any, fixed_layers: int
) -> TrainingState:
    """Returns the state before the first update, of all of a model's parameters."""
    check_scalars(hyperparams)
    learned, _ = split(params, config.trainable, fixed_layers)
    hyperparams = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hyperparams)
    return TrainingState(
        key=key,
        step=jnp.int32(0),
        params=learned,
        opt_state=adamw(hyperparams, jnp.int32(0)).init(learned),
        hyperparams=hyperparams,
    )


def draw_batch(state: TrainingState, rows: Any, config: Any) -> Any:
    """Returns the rows of the next update."""
    num_rows = len(rows.longest)
    chosen = batch_of_rows(state.key, state.step, num_rows, config.batch_size)
    return jax.tree.map(lambda x: x[chosen], rows)


def take_update(
    state: TrainingState,
    fixed: Params,
    batch: Any,
    loss: Callable[[Params, Any], tuple[jax.Array, Sums]],
    config: Any,
    fixed_layers: int,
) -> tuple[TrainingState, Sums, Metrics]:
    """Returns the next state, the loss's sums over the batch, and the update's metrics.

    Args:
        state: the present one.
        fixed: parameters that are not trained; of others among them nothing is read.
        batch: what is learned from.
        loss: `(params, rows) -> (sum, sums)`, of all of a model's parameters.
        config: batch size, microbatches, lengths, and what is trained.
        fixed_layers: of the module that is trained.
    """
    _, fixed = split(fixed, config.trainable, fixed_layers)
    gradient, sums = gradients(
        lambda learned, rows: loss(join(learned, fixed), rows),
        state.params,
        batch,
        num_microbatches=config.num_microbatches,
        lengths=config.lengths or (batch.ids.shape[-1],),
    )
    optimizer = adamw(state.hyperparams, state.step)
    change, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    metrics = {
        "grad_norm": Mean.of(optax.tree.norm(gradient)),
        "learning_rate": Mean.of(learning_rate(state.hyperparams, state.step)),
    }
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, change),
        opt_state=opt_state,
    )
    return state, sums, metrics
