"""Drawing the next token: from the whole distribution, or from its most probable part."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rljax.numerics.random import pcg4d


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truncation:
    """Which tokens may be drawn. Each rule acts on what the one before has left. Static.

    Tokens that are exactly as probable as the last one kept are kept too.

    Attributes:
        top_k: only the k most probable; None keeps all.
        top_p: of the most probable, as few as have this probability together.
        min_p: only those that have at least this share of the largest probability.

    References:
        Fan et al. (2018), https://arxiv.org/abs/1805.04833; Holtzman et al. (2020),
        https://arxiv.org/abs/1904.09751; Nguyen et al. (2024),
        https://arxiv.org/abs/2407.01082.
    """

    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self):
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1 token, got {self.top_k}.")
        for name in ("top_p", "min_p"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise ValueError(
                    f"{name} must lie in (0, 1], got {share}. None keeps all tokens."
                )


WHOLE = Truncation()


def truncate(weights: jax.Array, truncation: Truncation) -> jax.Array:
    """Returns weights `[..., V]` with those of tokens that may not be drawn at 0.

    Args:
        weights: probabilities times any number, of which the largest is 1.
        truncation: the rules.
    """
    if truncation.top_k is not None and truncation.top_k < weights.shape[-1]:
        most = jnp.float32(truncation.top_k)
        weights = _keep_largest(weights, most, lambda w: (w > 0).astype(jnp.float32))
    if truncation.top_p is not None and truncation.top_p < 1:
        total = weights.sum(axis=-1, keepdims=True)
        weights = _keep_largest(weights, truncation.top_p * total, lambda w: w)
    if truncation.min_p is not None:
        weights = jnp.where(weights >= truncation.min_p, weights, 0.0)
    return weights


def row_words(keys: jax.Array) -> jax.Array:
    """Returns uint32 `[B, 2]`, random, of the rows' typed keys `[B]`; consumes them."""
    return jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys)


def draw(
    logits: jax.Array,
    words: jax.Array,
    step: jax.Array,
    *,
    temperature: jax.Array | float = 1.0,
    truncation: Truncation = WHOLE,
    greedy: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Returns tokens `[B]` int32, and log-probabilities `[B]` of what they are drawn from.

    Each token's weight is divided by an exponential random number of its own, and the
    largest is drawn: Gumbel's trick, with half of its logarithms. A row's numbers depend
    on its words and on `step` alone, not on what else is in the batch.

    Args:
        logits: `[B, V]`.
        words: of `row_words`.
        step: int32, another for each token of a row.
        temperature: logits are divided by it first.
        truncation: which tokens may be drawn.
        greedy: take the most probable token, the first of equal ones.
    """
    logits = logits.astype(jnp.float32)
    # Before the division, which could reach infinity.
    logits = (logits - logits.max(axis=-1, keepdims=True)) / temperature
    weights = truncate(jnp.exp(logits), truncation)
    if greedy:
        chosen = _first_largest(logits)
    else:
        chosen = _first_largest(weights / exponentials(words, step, logits.shape[-1]))
    of_chosen = jnp.take_along_axis(logits, chosen[:, None], axis=-1)[:, 0]
    return chosen, of_chosen - jnp.log(weights.sum(axis=-1))


def exponentials(words: jax.Array, step: jax.Array, size: int) -> jax.Array:
    """Returns float32 `[B, size]` standard exponential numbers, each row of its words."""
    column = jnp.arange(size, dtype=jnp.uint32)[None]
    hashed, *_ = pcg4d(column, words[:, :1], words[:, 1:], step.astype(jnp.uint32))
    # In the middle of 2**32 intervals, of which floats near 0 resolve each: there lie the
    # numbers with which a token is drawn that is hardly ever drawn.
    uniform = (hashed.astype(jnp.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    return -jnp.log1p(-jnp.minimum(uniform, np.float32(1 - 2.0**-24)))


def _first_largest(x: jax.Array) -> jax.Array:
    """Returns the int32 places of the largest along the last axis, as argmax does.

    Its reduction of pairs takes a CPU four times as long.
    """
    last = x.shape[-1] - 1
    places = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    return jnp.where(x == x.max(axis=-1, keepdims=True), places, last).min(axis=-1)


def _keep_largest(
    weights: jax.Array, amount: jax.Array, measure: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Keeps the largest weights, as few as measure at least `amount` together.

    The smallest one kept is found bit by bit, which needs no sorting: as integers, floats
    that are not negative have the same order.
    """
    as_bits = jax.lax.bitcast_convert_type(weights, jnp.int32)

    def add_bit(i, threshold):
        higher = threshold | (jnp.int32(1) << (29 - i))  # of 1.0 and less, bit 30 is 0
        kept = measure(jnp.where(as_bits >= higher, weights, 0.0))
        enough = kept.sum(axis=-1, keepdims=True) >= amount
        return jnp.where(enough, higher, threshold)

    lowest = jnp.zeros_like(as_bits[..., :1])
    threshold = jax.lax.fori_loop(0, 30, add_bit, lowest)
    return jnp.where(as_bits >= threshold, weights, 0.0)
