"""Forward passes over samples: log-probabilities and values of completions' tokens."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.base import Params
from rljax.rlhf.models.log_probs import token_log_probs
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.policy.samples import followed_by
from rljax.rlhf.training.microbatches import cut_to_fit, parts_by_length


class Completed(NamedTuple):
    """What a model computes at the places where it chooses T tokens.

    Attributes:
        ids: `[n, T + 1]`, the token before the completion, and the completion.
        hidden: `[n, T + 1, D]`, at each of these; of the last nothing is chosen.
        logits: `[n, T + 1, V]`, of the token after each.
    """

    ids: jax.Array
    hidden: jax.Array
    logits: jax.Array

    def log_probs(self, temperature: float | jax.Array) -> jax.Array:
        """Returns `[n, T]`, of the completion's tokens; some number after its end."""
        return token_log_probs(self.logits, self.ids, temperature)


def at_completions(x: jax.Array, rows: Any) -> jax.Array:
    """Returns `[n, T + 1, ...]` of `x` `[n, L, ...]`, from before each completion on."""
    count = rows.log_probs.shape[1] + 1
    places = rows.starts[:, None] - 1 + jnp.arange(count)[None]
    places = jnp.minimum(places, x.shape[1] - 1)
    places = places.reshape(*places.shape, *[1] * (x.ndim - 2))
    return jnp.take_along_axis(x, places, axis=1)


def complete(module: Transformer, params: Params, rows: Any) -> Completed:
    """Runs a language model over rows, and its last layer at their completions alone.

    Args:
        module: the model.
        params: its parameters.
        rows: `Samples`, or what has their `ids`, `starts`, `log_probs` and `trunk`. Of
            those with a trunk the module's blocks after its fixed ones are run.
    """
    apply: Any = module.apply
    if rows.trunk is None:
        states = apply({"params": params}, rows.ids)
    else:
        states = apply({"params": params}, rows.trunk, method="after_trunk")
    hidden = at_completions(states, rows)
    logits = apply({"params": params}, hidden, method="unembed")
    return Completed(at_completions(rows.ids, rows), hidden, logits)


def run_trunk(
    module: Transformer, params: Params, rows: Any, question: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Returns states `[n, L, D]` after a module's fixed blocks, and `[n, D]` the last ones.

    Those are at the end of the question, which follows each row's end.

    Args:
        module: the model, whose first `fixed_layers` blocks are run.
        params: its parameters.
        rows: with `ids` `[n, L]` and `lengths`.
        question: tokens; () to take each row's last token.
    """
    ids = followed_by(rows.ids, rows.lengths, question)
    apply: Any = module.apply
    states = apply({"params": params}, ids, method="trunk")
    last = rows.lengths - 1 + len(question)
    at_end = jnp.take_along_axis(states, last[:, None, None], axis=1)
    return states[:, : rows.ids.shape[1]], at_end[:, 0]


def in_parts(
    function: Callable[[Any], Any], rows: Any, num_parts: int, lengths: tuple[int, ...]
) -> Any:
    """Returns a function's results, `[N, ...]` each, computed from some rows at a time.

    Rows of like length are together, and cut, as in
    `rljax.rlhf.training.microbatches.gradients`.

    Args:
        function: `(rows) -> results`, leaves `[n, ...]`; of rows that are cut they may be
            shorter, and are padded with 0.
        rows: N, with `log_probs` of `[N, T]`, `longest` and `cut`.
        num_parts: of equally many rows; divides N.
        lengths: tokens that a part may be cut to, ascending, the last enough for all.
    """
    if num_parts == 1 and lengths[0] >= rows.ids.shape[1]:
        return function(rows)
    parts, order = parts_by_length(rows, num_parts)
    whole = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))

    def padded(part: Any) -> Any:
        def pad(x: jax.Array, like: Any) -> jax.Array:
            lacking = zip(x.shape, like.shape, strict=True)
            return jnp.pad(x, [(0, wanted - size) for size, wanted in lacking])

        return jax.tree.map(pad, function(part), whole)

    found = jax.lax.map(cut_to_fit(padded, lengths), parts)
    places = jnp.argsort(order)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[places], found)
