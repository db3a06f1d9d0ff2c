"""What is scored or learned from: a prompt and its completion, and rows of tokens."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

Message = Mapping[str, Any]
Messages = Sequence[Message]


class Pair(NamedTuple):
    """A prompt and its completion, each as text or as messages of a chat.

    A text is a user's message or an assistant's to a chat template. `variables` are what
    else the template is given: `tools`, `documents`, and any others that it knows.
    """

    prompt: str | Messages
    completion: str | Message | Messages
    variables: Mapping[str, Any] = {}


class Transcript(NamedTuple):
    """A prompt and its completion as one text, in which the latter begins at `start`."""

    text: str
    start: int


class TokenPair(NamedTuple):
    """A prompt and its completion as token ids: scored as they were sampled."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]


Example = (
    Pair | Transcript | TokenPair | tuple[str | Messages, str | Message | Messages]
)
"""A bare tuple is a `Pair`."""


class Tokens(struct.PyTreeNode):
    """Rows of tokens, padded on either side: `ids` `[..., L]` int32.

    The `mask`, `[..., L]` bool, is true where a token is real.
    """

    ids: jax.Array
    mask: jax.Array

    @property
    def lengths(self) -> jax.Array:
        """`[...]` int32: the place after each row's last real token."""
        size = self.mask.shape[-1]
        last = jnp.argmax(self.mask[..., ::-1], axis=-1)
        return jnp.where(self.mask.any(axis=-1), size - last, 0).astype(jnp.int32)
