"""Completions that a policy has sampled, as rows of tokens padded on the right."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rljax.rlhf.generation import Generated


class Samples(struct.PyTreeNode):
    """N completions, each with its prompt, in rows of L tokens; T at most in a completion.

    The completions of one prompt follow one another. What is of tokens, `[N, T]`, begins
    at a completion's first token; where `mask` is false it is 0.

    Attributes:
        ids: `[N, L]` int32, each prompt with its completion; 0 after a row's end.
        lengths: `[N]` int32, tokens of each row.
        starts: `[N]` int32, the place of the completion's first token.
        prompt_index: `[N]` int32, which of the task's prompts it is.
        stopped: `[N]` bool, whether it ended with a stop token rather than at T.
        log_probs: `[N, T]`, of the tokens under the policy that sampled them.
        reference_log_probs: `[N, T]`, under the reference; None if none is used.
        kl: `[N, T]`, the exact divergence of the policy from the reference in the choice
            of each token; None unless it is used.
        values: `[N, T]`, what a critic expected before each token; None without one.
        trunk: `[N, L, D]`, states after the blocks that policy and reference share; None
            where they share none.
        trunk_last: `[N, D]`, that state at each row's last token, or at the end of the
            question that was put after it; likewise.
        vocab_size: all tokens are below it; None where it is not known. Static.
    """

    ids: jax.Array
    lengths: jax.Array
    starts: jax.Array
    prompt_index: jax.Array
    stopped: jax.Array
    log_probs: jax.Array
    reference_log_probs: Any = None
    kl: Any = None
    values: Any = None
    trunk: Any = None
    trunk_last: Any = None
    vocab_size: int | None = struct.field(pytree_node=False, default=None)

    @property
    def longest(self) -> jax.Array:
        """`[N]` int32: tokens of each row."""
        return self.lengths

    @property
    def num_learned(self) -> jax.Array:
        """`[N]` int32: tokens of each completion."""
        return self.lengths - self.starts

    @property
    def mask(self) -> jax.Array:
        """`[N, T]` bool: which places have a token of the completion."""
        places = jnp.arange(self.log_probs.shape[1])
        return places[None] < self.num_learned[:, None]

    @property
    def completions(self) -> jax.Array:
        """`[N, T]` int32: the completions' tokens, 0 after their end."""
        places = self.starts[:, None] + jnp.arange(self.log_probs.shape[1])[None]
        places = jnp.minimum(places, self.ids.shape[1] - 1)
        return jnp.where(self.mask, jnp.take_along_axis(self.ids, places, axis=1), 0)

    def cut(self, length: int) -> "Samples":
        """Returns rows of so many tokens, of which a prompt has at least one."""
        tokens = min(self.log_probs.shape[1], max(length - 1, 1))
        return self.replace(
            ids=self.ids[:, :length],
            log_probs=self.log_probs[:, :tokens],
            reference_log_probs=cut_tokens(self.reference_log_probs, tokens),
            kl=cut_tokens(self.kl, tokens),
            values=cut_tokens(self.values, tokens),
            trunk=cut_tokens(self.trunk, length),
        )


def join_prompts(
    prompts: jax.Array,
    prompt_lengths: jax.Array,
    prompt_index: jax.Array,
    generated: Generated,
    vocab_size: int | None = None,
) -> Samples:
    """Returns prompts `[N, P]`, padded on the left, with their completions.

    Args:
        prompts: int32.
        prompt_lengths: `[N]` int32.
        prompt_index: `[N]` int32, for the samples to keep.
        generated: N completions of at most T tokens; rows have L = P + T.
        vocab_size: of the language.
    """
    width, num_tokens = prompts.shape[1], generated.ids.shape[1]
    lengths = prompt_lengths + generated.lengths
    places = jnp.arange(width + num_tokens)[None]
    both = jnp.concatenate([prompts, generated.ids], axis=1)
    from_first = jnp.minimum(
        places + (width - prompt_lengths)[:, None], width + num_tokens - 1
    )
    ids = jnp.take_along_axis(both, from_first, axis=1)
    return Samples(
        ids=jnp.where(places < lengths[:, None], ids, 0),
        lengths=lengths,
        starts=prompt_lengths,
        prompt_index=prompt_index,
        stopped=generated.stopped,
        log_probs=generated.log_probs,
        vocab_size=vocab_size,
    )


def followed_by(
    ids: jax.Array, lengths: jax.Array, tokens: tuple[int, ...]
) -> jax.Array:
    """Returns rows `[N, L + S]` with S tokens after each one's end.

    Args:
        ids: `[N, L]` int32, padded on the right.
        lengths: `[N]` int32.
        tokens: S of them.
    """
    count = len(tokens)
    ids = jnp.pad(ids, ((0, 0), (0, count)))
    if not count:
        return ids
    after = jnp.arange(ids.shape[1])[None] - lengths[:, None]
    put = jnp.array(tokens, ids.dtype)[jnp.clip(after, 0, count - 1)]
    return jnp.where((after >= 0) & (after < count), put, ids)


def cut_tokens(x: jax.Array | None, count: int) -> jax.Array | None:
    """Returns the first places of something `[N, T, ...]`; None of None."""
    return None if x is None else x[:, :count]
