"""A tiny language: sentences from movie reviews, in the tokens of a small vocabulary."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fetch_ratings
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from rljax.extras import require
from rljax.rlhf import TransformerConfig, read_ratings
from rljax.rlhf.data.rows import Completions

END = 0  # begins and ends a sentence
PROMPT_LENGTH = 4  # END, and the first tokens of a sentence
COMPLETION_LENGTH = 24
LENGTH = PROMPT_LENGTH + COMPLETION_LENGTH


class Corpus(NamedTuple):
    """Sentences as tokens, and their beginnings.

    Attributes:
        tokenizer: turns ids into text.
        rows: sentences to learn from, each cut to LENGTH tokens.
        prompts: `[M, P]` int32, how they begin.
        held_out: `[H, P]` int32, how other sentences begin.
    """

    tokenizer: Any
    rows: Completions
    prompts: np.ndarray
    held_out: np.ndarray

    def texts(self, completions: ArrayLike) -> list[str]:
        """Returns the texts of completions `[N, T]`, 0 after their end."""
        return self.tokenizer.decode_batch(np.asarray(completions).tolist())


def read_corpus(path: Path | None, *, vocab_size: int, num_held_out: int) -> Corpus:
    """Returns the sentences of a file of rated texts, in an order that is always the same.

    Args:
        path: of the file; None fetches movie reviews (`fetch_ratings.py`).
        vocab_size: tokens, of which 257 are END and the bytes.
        num_held_out: sentences of which only the beginnings are kept.
    """
    if path is None:
        fetched = fetch_ratings.main(fetch_ratings.Experiment())
        path = Path(fetched["folder"]) / "movies.jsonl"
    examples: list[Any] = [rated.example for rated in read_ratings(path)]
    texts = sorted({example.text for example in examples})
    tokenizer = make_tokenizer(texts, vocab_size)
    rows = [encoded.ids for encoded in tokenizer.encode_batch(texts)]
    rows = [[END, *row, END] for row in rows if len(row) >= PROMPT_LENGTH]
    order = np.random.default_rng(0).permutation(len(rows))
    ids, lengths = np.zeros((len(rows), LENGTH), np.int32), []
    for place, i in enumerate(order):
        row = rows[i][:LENGTH]
        ids[place, : len(row)] = row
        lengths.append(len(row))
    kept = slice(num_held_out, None)
    learned = jnp.array(lengths[kept], jnp.int32)
    prompts = ids[:, :PROMPT_LENGTH]
    return Corpus(
        tokenizer,
        Completions(jnp.asarray(ids[kept]), learned, jnp.zeros_like(learned)),
        prompts[kept],
        prompts[:num_held_out],
    )


def make_tokenizer(texts: Sequence[str], vocab_size: int) -> Any:
    """Returns a tokenizer of bytes and of their pairs that are frequent in the texts.

    References:
        Sennrich et al. (2016), https://arxiv.org/abs/1508.07909.
    """
    tokenizers = require("tokenizers", "a vocabulary needs", "lm")
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|end|>"],  # the first id, END
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


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
