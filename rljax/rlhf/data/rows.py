"""Tokenized training sets, which stay on the device as a learner's task.

N rows, of at most L tokens, padded on the right; what stands in the padding does not
matter. Each record can be cut to fewer tokens, so that short rows cost less.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


def left_padded(
    rows: Sequence[Sequence[int]], width: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids `[N, P]` int32 of prompts, padded on the left, and lengths `[N]` int32.

    P is `width`, or else the longest prompt's length. Bytes are rows of tokens, too.

    Example:
        >>> left_padded([b"on", b"off"])[0].tolist()
        [[0, 111, 110], [111, 102, 102]]
    """
    lengths = np.array([len(row) for row in rows], np.int32)
    ids = np.zeros((len(rows), width or lengths.max(initial=1)), np.int32)
    for i, row in enumerate(rows):
        ids[i, ids.shape[1] - len(row) :] = list(row)
    return ids, lengths


class Rankings(struct.PyTreeNode):
    """Completions of a prompt, from the best to the worst: of a pair K is 2.

    Attributes:
        ids: `[N, K, L]` int32, each prompt with its completion.
        lengths: `[N, K]` int32; 0 where a ranking has fewer than K.
        margins: `[N]` float32, how much better the first is, at least, in score.
        probs: `[N]` float32, the probability that the first is preferred to the second.
        starts: `[N, K]` int32, the places of the completions' first tokens; None where
            only whole texts are scored.
        reference: `[N, K]` float32, log-probabilities of the completions under a
            reference model; None where there is none.
    """

    ids: jax.Array
    lengths: jax.Array
    margins: jax.Array
    probs: jax.Array
    starts: jax.Array | None = None
    reference: jax.Array | None = None

    @classmethod
    def of(
        cls,
        ids: jax.Array,
        lengths: jax.Array,
        margins: jax.Array | None = None,
        probs: jax.Array | None = None,
        starts: jax.Array | None = None,
    ) -> "Rankings":
        """Returns rankings without margins, and of which we are sure, unless given."""
        ids, lengths = jnp.asarray(ids, jnp.int32), jnp.asarray(lengths, jnp.int32)
        size = len(ids)
        margins = jnp.zeros(size) if margins is None else jnp.asarray(margins)
        probs = jnp.ones(size) if probs is None else jnp.asarray(probs)
        starts = None if starts is None else jnp.asarray(starts, jnp.int32)
        wide = margins.astype(jnp.float32), probs.astype(jnp.float32)
        return cls(ids, lengths, *wide, starts)

    @property
    def longest(self) -> jax.Array:
        """`[N]` int32: tokens of each row's longest text."""
        return self.lengths.max(axis=-1)

    def cut(self, length: int) -> "Rankings":
        """Returns rows of so many tokens."""
        return self.replace(ids=self.ids[..., :length])


class Ratings(struct.PyTreeNode):
    """Prompts with their completions, and a number for each.

    Attributes:
        ids: `[N, L]` int32.
        lengths: `[N]` int32, at least 1.
        ratings: `[N]` float32.
    """

    ids: jax.Array
    lengths: jax.Array
    ratings: jax.Array

    @property
    def longest(self) -> jax.Array:
        """`[N]` int32: tokens of each row."""
        return self.lengths

    def cut(self, length: int) -> "Ratings":
        """Returns rows of so many tokens."""
        return self.replace(ids=self.ids[..., :length])


class Completions(struct.PyTreeNode):
    """Prompts with the completions that a language model is to give.

    Attributes:
        ids: `[N, L]` int32.
        lengths: `[N]` int32, at least 1.
        starts: `[N]` int32, the place of the completion's first token; 0 where the whole
            text is learned, of which nothing comes before the first token.
    """

    ids: jax.Array
    lengths: jax.Array
    starts: jax.Array

    @property
    def longest(self) -> jax.Array:
        """`[N]` int32: tokens of each row."""
        return self.lengths

    @property
    def num_learned(self) -> jax.Array:
        """`[N]` int32: tokens of each row that are learned."""
        return num_learned(self.starts, self.lengths)

    def cut(self, length: int) -> "Completions":
        """Returns rows of so many tokens."""
        return self.replace(ids=self.ids[..., :length])


class LabelledCompletions(struct.PyTreeNode):
    """Prompts with a completion each, desirable or not, and with one of another prompt.

    Attributes:
        ids: `[N, 2, L]` int32: a prompt with its completion, and the same prompt with a
            completion of another, by which the distance to a reference is estimated.
        lengths: `[N, 2]` int32, at least 1.
        starts: `[N, 2]` int32, the places of the completions' first tokens.
        labels: `[N]` bool, whether the completion is desirable.
        reference: `[N, 2]` float32, log-probabilities of both completions under a
            reference model; None where there is none yet.
    """

    ids: jax.Array
    lengths: jax.Array
    starts: jax.Array
    labels: jax.Array
    reference: jax.Array | None = None

    @property
    def longest(self) -> jax.Array:
        """`[N]` int32: tokens of each row's longest text."""
        return self.lengths.max(axis=-1)

    def cut(self, length: int) -> "LabelledCompletions":
        """Returns rows of so many tokens."""
        return self.replace(ids=self.ids[..., :length])


def learned_places(starts: jax.Array, lengths: jax.Array, width: int) -> jax.Array:
    """Returns `[..., width - 1]` bool, which tokens but the first are a completion's."""
    places = jnp.arange(1, width).reshape(*[1] * starts.ndim, -1)
    return (places >= starts[..., None]) & (places < lengths[..., None])


def num_learned(starts: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns `[...]` int32, tokens of completions that something comes before."""
    return jnp.maximum(lengths - jnp.maximum(starts, 1), 0)
