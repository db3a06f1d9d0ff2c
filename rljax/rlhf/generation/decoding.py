"""Completions that are being written: the prompts at once, then token by token."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rljax.base import Params
from rljax.rlhf.generation.sampling import WHOLE, Truncation, draw, row_words
from rljax.rlhf.models.block import KeyValues
from rljax.rlhf.models.transformer import (
    TakenApart,
    Transformer,
    unstack,
)


class Sampling(struct.PyTreeNode):
    """How tokens are chosen, and which of them end a completion.

    Attributes:
        temperature: logits are divided by it; may be traced.
        truncation: which tokens may be drawn.
        greedy: take the most probable token instead of drawing one.
        stop_ids: tokens that end a completion, which they belong to.
    """

    temperature: jax.Array | float = 1.0
    truncation: Truncation = struct.field(pytree_node=False, default=WHOLE)
    greedy: bool = struct.field(pytree_node=False, default=False)
    stop_ids: tuple[int, ...] = struct.field(pytree_node=False, default=())

    def choose(
        self, logits: jax.Array, words: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns tokens, their log-probabilities and whether they end it: `[B]` each."""
        tokens, log_probs = draw(
            logits,
            words,
            step,
            temperature=self.temperature,
            truncation=self.truncation,
            greedy=self.greedy,
        )
        stop_ids = jnp.array(self.stop_ids, jnp.int32)
        return tokens, log_probs, (tokens[:, None] == stop_ids[None]).any(axis=1)


class Decoding(struct.PyTreeNode):
    """B completions of up to T tokens, of which `step` have been chosen.

    Attributes:
        step: int32 scalar, at least 1.
        ids: `[B, T]` int32, 0 from a completion's end on.
        log_probs: `[B, T]` float32, likewise.
        lengths: `[B]` int32, tokens of each so far.
        stopped: `[B]` bool, whether it has ended.
        real: `[B, S]` bool, of the cache's places, where tokens are or will be.
        words: `[B, 2]` uint32, what each row's random numbers are made of.
        cache: keys and values of each block.
    """

    step: jax.Array
    ids: jax.Array
    log_probs: jax.Array
    lengths: jax.Array
    stopped: jax.Array
    real: jax.Array
    words: jax.Array
    cache: tuple[KeyValues, ...]


def begin(
    module: Transformer,
    params: Params,
    prompts: jax.Array,
    prompt_lengths: jax.Array,
    keys: jax.Array,
    sampling: Sampling,
    max_new_tokens: int,
) -> Decoding:
    """Returns completions of one token each; arguments as those of `generate`."""
    batch_size, width = prompts.shape
    real = jnp.arange(width)[None] >= width - prompt_lengths[:, None]
    cache = KeyValues.empty(module.config, batch_size, width)
    apply: Any = functools.partial(module.apply, {"params": params})
    hidden, cache = apply(prompts, real, cache, method="extend")
    logits = apply(hidden[:, -1], method="unembed")
    words, step = row_words(keys), jnp.int32(0)
    tokens, log_probs, stopped = sampling.choose(logits, words, step)
    # The last token is never looked at.
    rest = max_new_tokens - 1
    empty = jnp.zeros((batch_size, max_new_tokens), jnp.int32)
    return Decoding(
        step=step + 1,
        ids=empty.at[:, 0].set(tokens),
        log_probs=empty.astype(jnp.float32).at[:, 0].set(log_probs),
        lengths=jnp.ones(batch_size, jnp.int32),
        stopped=stopped,
        # Of the places after the prompt a token sees those up to itself.
        real=jnp.pad(real, ((0, 0), (0, rest)), constant_values=True),
        words=words,
        cache=unstack(cache.grown(rest)),
    )


def go_on(
    module: Transformer,
    params: Params,
    apart: TakenApart,
    decoding: Decoding,
    sampling: Sampling,
    until: jax.Array | int,
) -> Decoding:
    """Returns completions of `until` tokens, or of fewer where all end before.

    `apart` is `take_apart(params)`.
    """
    width = decoding.real.shape[1] - (decoding.ids.shape[1] - 1)
    apply: Any = functools.partial(module.apply, {"params": params})

    def goes_on(now):
        return (now.step < until) & ~now.stopped.all()

    def body(now):
        step = now.step
        tokens = jax.lax.dynamic_slice_in_dim(now.ids, step - 1, 1, axis=1)
        place = width + step - 1
        hidden, cache = apply(
            tokens, decoding.real, now.cache, place, apart.layers, method="extend"
        )
        logits = apply(hidden[:, 0], apart.unembedding, method="unembed")
        tokens, log_probs, ends = sampling.choose(logits, decoding.words, step)
        tokens = jnp.where(now.stopped, 0, tokens)
        log_probs = jnp.where(now.stopped, 0.0, log_probs)
        return now.replace(
            step=step + 1,
            ids=now.ids.at[:, step].set(tokens),
            log_probs=now.log_probs.at[:, step].set(log_probs),
            lengths=now.lengths + ~now.stopped,
            stopped=now.stopped | ends,
            cache=cache,
        )

    return jax.lax.while_loop(goes_on, body, decoding)


def keep(decoding: Decoding, rows: jax.Array) -> Decoding:
    """Returns some of the rows, by their places, `[B']` int32."""
    of_rows = decoding.replace(step=None)
    return jax.tree.map(lambda x: x[rows], of_rows).replace(step=decoding.step)
