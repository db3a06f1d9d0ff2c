"""A tiny language: sentences from movie reviews, without all but their frequent words."""

import collections
import re
from pathlib import Path
from typing import Any, NamedTuple

import fetch_ratings
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from rljax.rlhf import TransformerConfig, read_ratings
from rljax.rlhf.data.rows import Completions
from rljax.training.files import RunError

END = 0  # begins and ends a sentence
PROMPT_LENGTH = 4  # END, and the first words of a sentence
COMPLETION_LENGTH = 16
LENGTH = PROMPT_LENGTH + COMPLETION_LENGTH


class Corpus(NamedTuple):
    """Sentences as tokens, each of which is a word, and their beginnings.

    Attributes:
        words: `[V]`, the tokens' texts; that of END is empty.
        rows: sentences to learn from, each cut to LENGTH tokens.
        prompts: `[M, P]` int32, how they begin.
        held_out: `[H, P]` int32, how other sentences begin.
    """

    words: list[str]
    rows: Completions
    prompts: np.ndarray
    held_out: np.ndarray

    def texts(self, completions: ArrayLike) -> list[str]:
        """Returns the texts of completions `[N, T]`, 0 after their end."""
        rows = np.asarray(completions).tolist()
        return [" ".join(self.words[i] for i in row if i != END) for row in rows]


def read_corpus(path: Path | None, *, vocab_size: int, num_held_out: int) -> Corpus:
    """Returns the sentences of a file of rated texts, in an order that is always the same.

    Args:
        path: of the file; None fetches movie reviews (`fetch_ratings.py`).
        vocab_size: tokens: END, and the most frequent words. Others are left out.
        num_held_out: different beginnings; no sentence with one of them is learned.

    Raises:
        RunError: there are too few.
    """
    if path is None:
        fetched = fetch_ratings.main(fetch_ratings.Experiment())
        path = Path(fetched["folder"]) / "movies.jsonl"
    examples: list[Any] = [rated.example for rated in read_ratings(path)]
    texts = sorted({example.text.lower() for example in examples})
    split = [re.findall(r"\w+(?:['-]\w+)*|[.,!?]", text) for text in texts]
    counts = collections.Counter(word for words in split for word in words)
    words = ["", *(word for word, _ in counts.most_common(vocab_size - 1))]
    number = {word: i for i, word in enumerate(words)}
    rows = [[number[word] for word in words if word in number] for words in split]
    rows = [[END, *row, END] for row in rows if len(row) > PROMPT_LENGTH]
    order = np.random.default_rng(0).permutation(len(rows))
    ids, lengths = np.zeros((len(rows), LENGTH), np.int32), []
    for place, i in enumerate(order):
        row = rows[i][:LENGTH]
        ids[place, : len(row)] = row
        lengths.append(len(row))
    prompts = ids[:, :PROMPT_LENGTH]
    _, first, which = np.unique(prompts, axis=0, return_index=True, return_inverse=True)
    held_out = np.sort(first)[:num_held_out]
    # No sentence that begins as a held-out one does is learned from.
    kept = np.flatnonzero(~np.isin(which, which[held_out]))
    if len(held_out) < num_held_out or not len(kept):
        raise RunError(
            f"{path} must have more sentences: of {len(rows)} with {PROMPT_LENGTH} words or "
            f"more {len(first)} begin differently, and {num_held_out} of these are held "
            f"out. Hold out fewer, or give more."
        )
    learned = jnp.array(np.array(lengths)[kept], jnp.int32)
    return Corpus(
        words,
        Completions(jnp.asarray(ids[kept]), learned, jnp.zeros_like(learned)),
        prompts[kept],
        prompts[held_out],
    )


def shape(vocab_size: int, width: int, num_layers: int) -> TransformerConfig:
    """Returns the shape of a language model or a reward model of so many tokens."""
    heads = max(1, width // 32)
    return TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_layers=num_layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        max_length=LENGTH,
        tie_embeddings=True,
    )
