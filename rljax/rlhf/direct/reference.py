"""Log-probabilities of a training set's completions, under a reference or a policy.

The reference's are computed once and kept in the rows, so that training needs no other
model than the one that learns:

    rows = with_reference(module, params, rows)
"""

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Params
from rljax.rlhf.data.rows import LabelledCompletions, Rankings, learned_places
from rljax.rlhf.models.log_probs import token_log_probs
from rljax.rlhf.models.parameters import check_language_model
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.row_files import batching
from rljax.rlhf.training.losses import completion_loss

Rows = TypeVar("Rows", Rankings, LabelledCompletions)


def completion_log_probs(
    module: Transformer,
    params: Params,
    ids: jax.Array,
    starts: jax.Array,
    lengths: jax.Array,
) -> jax.Array:
    """Returns log p(completion | prompt) `[...]`, summed over tokens, in one forward pass.

    Args:
        module: the language model.
        params: of the model.
        ids: `[..., L]` int32, prompts with completions, padded on the right.
        starts: `[...]` int32, the places of the completions' first tokens.
        lengths: `[...]` int32.
    """
    rows = ids.reshape(-1, ids.shape[-1])
    apply: Any = module.apply
    logits = apply({"params": params}, rows, method="logits")
    learned = learned_places(starts.ravel(), lengths.ravel(), ids.shape[-1])
    return -completion_loss(token_log_probs(logits, rows), learned).reshape(
        lengths.shape
    )


def row_log_probs(
    module: Transformer, params: Params, rows: Any, *, max_tokens: int | None = None
) -> np.ndarray:
    """Returns `[N, K]` float32 log-probabilities of rows' completions; 0 where none is.

    Texts of like length are computed together.

    Args:
        module: the language model, plain.
        params: of the model.
        rows: `Rankings` with `starts`, or `LabelledCompletions`.
        max_tokens: of a batch, padding included; by default what is fast here.

    Raises:
        ValueError: the rows have no starts, or tokens that the model does not embed.
    """
    check_tokens(module, rows)
    check_language_model(module, params)
    shape = rows.lengths.shape
    ids = np.asarray(rows.ids).reshape(-1, rows.ids.shape[-1])
    starts, lengths = (np.asarray(x).reshape(-1) for x in (rows.starts, rows.lengths))
    places = lengths.nonzero()[0]
    most = max_tokens or _default_max_tokens(module.config.vocab_size)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    plan = batching.plan_batches(
        lengths[places],
        [batching.buckets(ids.shape[-1], density) for density in (8, 4, 2, 1)],
        lambda length: max(1, most // length),
        batching.default_compile_tokens(jax.default_backend(), num_params),
    )
    program, found = _program(module), []
    for batch in plan:
        chosen = places[batch.rows]
        filled = np.resize(chosen, batch.size)  # the last is filled up with what it has
        part = ids[filled, : batch.length], starts[filled], lengths[filled]
        found.append((chosen, program(params, *part)))  # not waited for
    log_probs = np.zeros(lengths.shape, np.float32)
    for chosen, values in found:
        log_probs[chosen] = np.asarray(values)[: len(chosen)]
    return log_probs.reshape(shape)


def with_reference(
    module: Transformer, params: Params, rows: Rows, *, max_tokens: int | None = None
) -> Rows:
    """Returns rows with their completions' log-probabilities under a reference model.

    Args:
        module: the reference, plain.
        params: of the reference.
        rows: `Rankings` with `starts`, as `tokenize_rankings` returns them, or
            `LabelledCompletions`.
        max_tokens: of a batch, padding included; by default what is fast here.

    Raises:
        ValueError: the rows have no starts, or tokens that the model does not embed; or
            a log-probability is not finite.
    """
    reference = row_log_probs(module, params, rows, max_tokens=max_tokens)
    check_finite(reference)
    return rows.replace(reference=jnp.asarray(reference))


def implicit_rewards(
    module: Transformer,
    params: Params,
    rows: Any,
    *,
    beta: float,
    max_tokens: int | None = None,
) -> np.ndarray:
    """Returns `[N, K]` float32, beta (log pi - log pi_ref) of rows' completions.

    By these a policy judges completions as a reward model does, up to a constant for each
    prompt: Rafailov et al. (2023), https://arxiv.org/abs/2305.18290, section 4.

    Args:
        module: the policy, plain, as `trained_params` has its parameters.
        params: of the policy.
        rows: with the reference, as `with_reference` returns them.
        beta: what the policy was trained with.
        max_tokens: of a batch, padding included; by default what is fast here.

    Raises:
        ValueError: the rows have no reference.
    """
    reference = np.asarray(reference_of(rows))
    log_probs = row_log_probs(module, params, rows, max_tokens=max_tokens)
    return np.float32(beta) * (log_probs - reference)


def reference_of(rows: Any) -> jax.Array:
    """Returns the reference's log-probabilities of rows, or raises a ValueError."""
    if rows.reference is None:
        raise ValueError(
            "the rows must have the log-probabilities of a reference model, got none. "
            "Use with_reference(module, params, rows)."
        )
    return rows.reference


def check_finite(reference: Any) -> None:
    """Raises a ValueError if a log-probability of the reference's is not a number."""
    bad = ~np.isfinite(np.asarray(reference))
    if bad.any():
        row = int(np.argwhere(bad)[0, 0])
        raise ValueError(
            f"the reference must give every completion a finite log-probability, but row "
            f"{row} has {np.asarray(reference)[row]}. Mend the model, or leave it out."
        )


def check_tokens(module: Transformer, rows: Any) -> None:
    """Raises a ValueError if rows have no starts, or what the model cannot read."""
    if rows.starts is None:
        raise ValueError(
            "the rows must have the places where completions start, got none. Use what "
            "tokenize_rankings returns, or give starts."
        )
    ids, lengths = np.asarray(rows.ids), np.asarray(rows.lengths)
    width, longest = ids.shape[-1], module.config.max_length
    if lengths.min() < 0 or lengths.max() > width:
        raise ValueError(
            f"lengths must lie in [0, {width}], as many tokens as ids have room for, got "
            f"{lengths.min()} to {lengths.max()}. Count the tokens without padding."
        )
    if width > longest:
        raise ValueError(
            f"rows must fit the model's context of {longest:,} tokens, got {width:,}, "
            f"padding included. Shorten them, as max_length of an EncodingConfig does."
        )
    real = np.arange(width) < lengths[..., None]
    size = module.config.vocab_size
    for token in (
        np.max(ids, where=real, initial=0),
        np.min(ids, where=real, initial=0),
    ):
        if not 0 <= token < size:
            raise ValueError(
                f"the rows have token {token:,}, but the model embeds only {size:,}. Use "
                f"the model's tokenizer."
            )


def _default_max_tokens(vocab_size: int) -> int:
    """Returns a batch's tokens whose logits take at most 2 GiB."""
    most = batching.default_max_tokens(jax.default_backend())
    return max(1, min(most, 2**29 // vocab_size))


@functools.cache
def _program(module: Transformer) -> Any:
    return jax.jit(functools.partial(completion_log_probs, module))
