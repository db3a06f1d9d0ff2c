"""AdamW with warm-up and cosine decay, and the order in which rows are learned from."""

import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from rljax.numerics.validation import check_ranges


class AdamWHyperparams(Protocol):
    """What the hyperparameters of RLHF's learners have in common; any may be traced.

    Attributes:
        learning_rate: AdamW's step size after the warm-up.
        warmup_updates: updates over which it rises linearly from 0.
        decay_updates: updates after which, falling as half a cosine, it is 0; inf:
            constant.
        weight_decay: of matrices, as AdamW has it; norms and biases do not decay.
        max_grad_norm: bound on the global norm of the gradient.
    """

    learning_rate: Any
    warmup_updates: Any
    decay_updates: Any
    weight_decay: Any
    max_grad_norm: Any


RANGES = {
    "learning_rate": (0.0, float(jnp.finfo(jnp.float32).max)),
    "warmup_updates": (0.0, math.inf),
    "decay_updates": (1.0, math.inf),
    "weight_decay": (0.0, float(jnp.finfo(jnp.float32).max)),
    "max_grad_norm": (0.0, math.inf),
}


def check_optimizer(hyperparams: Any, **ranges: tuple[float, float]) -> None:
    """Raises a ValueError for a value out of its range; `ranges` are further ones."""
    check_ranges(hyperparams, RANGES | ranges)


def learning_rate(hyperparams: AdamWHyperparams, step: jax.Array) -> jax.Array:
    """Returns the step size of an update; the first has `step` 0."""
    warmup, decay = hyperparams.warmup_updates, hyperparams.decay_updates
    risen = jnp.minimum(1.0, (step + 1) / (warmup + 1))
    share = jnp.clip((step - warmup) / jnp.maximum(decay - warmup, 1.0), 0.0, 1.0)
    left = jnp.where(jnp.isinf(decay), 1.0, 0.5 * (1 + jnp.cos(jnp.pi * share)))
    return hyperparams.learning_rate * risen * left


def adamw(
    hyperparams: AdamWHyperparams, step: jax.Array
) -> optax.GradientTransformation:
    """Returns the optimizer of an update, made anew for each.

    References:
        Loshchilov and Hutter (2019), https://arxiv.org/abs/1711.05101.
    """
    least = jnp.finfo(jnp.float32).tiny  # 0 would give 0 / 0 where the gradient is 0
    return optax.chain(
        optax.clip_by_global_norm(jnp.maximum(hyperparams.max_grad_norm, least)),
        optax.adamw(
            learning_rate(hyperparams, step),
            weight_decay=hyperparams.weight_decay,
            mask=_are_matrices,
        ),
    )


def batch_of_rows(
    key: jax.Array, step: jax.Array, num_rows: int, batch_size: int
) -> jax.Array:
    """Returns `[batch_size]` int32, the rows of an update; at most `num_rows`.

    Every row comes once in an epoch, in an order drawn for that epoch from the key; a
    batch may end one epoch and begin the next.
    """
    # The same as divmod(step * batch_size, num_rows), in numbers that fit into 32 bits.
    divisor = math.gcd(num_rows, batch_size)
    rows, size = num_rows // divisor, batch_size // divisor
    cycles, within = step // rows, step % rows
    epoch, place = cycles * size + within * size // rows, within * size % rows * divisor

    def order(epoch):
        return jax.random.permutation(jax.random.fold_in(key, epoch), num_rows)

    both = jnp.concatenate([order(epoch), order(epoch + 1)])
    return both[place + jnp.arange(batch_size)]


def _are_matrices(params: Any) -> Any:
    """Returns of each parameter whether it is a matrix, or one for each block."""

    def is_matrix(path: Any, _: jax.Array) -> bool:
        return path[-1].key in ("kernel", "embedding", "a", "b")

    return jax.tree_util.tree_map_with_path(is_matrix, params)
