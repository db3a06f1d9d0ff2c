"""Prompts for a sentence of a movie review, and sentences that people wrote and rated.

Prompts are templates filled with films; some templates are held out. A completion begins
with a space and ends with a line's end.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rljax.rlhf.data import read_ratings
from rljax.rlhf.data.rows import Completions
from rljax.rlhf.data.tokenizer import Tokenizer
from rljax.training.files import RunError

TRAINING_TEMPLATES = (
    "Movie review:",
    "A critic on the {film}:",
    "From a review of the {film}:",
    "What the newspaper wrote about the {film}:",
    "The {film}, in one sentence:",
    "Our reviewer saw the {film}:",
    "Film page, about the {film}:",
    "A line from the review of this {film}:",
)
HELD_OUT_TEMPLATES = (
    "A viewer's verdict on the {film}:",
    "One remark about the {film}, from a magazine:",
    "Reviewed this week, the {film}:",
    "Somebody wrote of the {film}:",
)
KINDS = (
    "low-budget", "French", "animated", "independent", "black-and-white", "two-hour",
    "Japanese", "big-budget",
)  # fmt: skip
GENRES = (
    "comedy", "drama", "thriller", "western", "documentary", "musical", "war film",
    "science fiction film", "crime film", "family film", "romance", "biography",
)  # fmt: skip
QUESTION = "In one word, the reviewer found this movie"
END = "\n"


class Sentences(NamedTuple):
    """Different sentences of reviews, and the means of their ratings, from -4 to 4."""

    texts: list[str]
    ratings: np.ndarray


class Material(NamedTuple):
    """What a recipe learns from, and is measured on.

    Attributes:
        shown: prompts with sentences to learn to write from.
        unseen: the same, of sentences that are not learned from.
        rated: prompts with sentences to learn a reward from.
        ratings: of these, their mean ratings.
        prompts: to practise on.
        held_out: prompts of other templates.
    """

    shown: Completions
    unseen: Completions
    rated: Completions
    ratings: np.ndarray
    prompts: list[str]
    held_out: list[str]


def read_material(
    path: Path,
    tokenizer: Tokenizer,
    *,
    num_shown: int,
    num_rated: int,
    num_held_out: int,
    seed: int,
) -> Material:
    """Returns a file's rated sentences, divided and put after prompts.

    Args:
        path: of the file.
        tokenizer: the policy's.
        num_shown: sentences to learn to write from.
        num_rated: other sentences to learn a reward from.
        num_held_out: prompts to measure by, and sentences.
        seed: of divisions and prompts.

    Raises:
        RunError: there are not so many.
    """
    sentences, rng = read_sentences(path), np.random.default_rng(seed)
    practised, held_out = map(prompts, (TRAINING_TEMPLATES, HELD_OUT_TEMPLATES))
    needed = num_shown + num_rated + num_held_out
    if needed > len(sentences.texts) or num_held_out > len(held_out):
        raise RunError(
            f"{path} has {len(sentences.texts)} sentences, and there are {len(held_out)} "
            f"held-out prompts, for {num_shown} + {num_rated} + {num_held_out} sentences "
            f"and {num_held_out} prompts. Lower these numbers."
        )
    ends = np.cumsum([num_rated, num_held_out, num_shown])
    parts = np.split(rng.permutation(len(sentences.texts))[:needed], ends[:-1])

    def after_prompts(places: np.ndarray) -> Completions:
        asked = [practised[i] for i in rng.integers(len(practised), size=len(places))]
        return rows(tokenizer, asked, [sentences.texts[i] for i in places])

    rated, unseen, shown = map(after_prompts, parts)
    chosen = rng.permutation(len(held_out))[:num_held_out]
    return Material(
        shown=shown,
        unseen=unseen,
        rated=rated,
        ratings=sentences.ratings[parts[0]],
        prompts=practised,
        held_out=[held_out[i] for i in chosen],
    )


def read_sentences(path: Path) -> Sentences:
    """Returns a file's sentences, each once."""
    means: dict[str, float] = {}
    for rated in read_ratings(path):
        example: Any = rated.example
        text = " ".join(example.text.split())
        means.setdefault(text, rated.mean)
    return Sentences(list(means), np.array(list(means.values())))


def prompts(templates: Sequence[str]) -> list[str]:
    """Returns the prompts of all films, each once, template by template."""
    films = [f"{kind} {genre}" for kind, genre in itertools.product(KINDS, GENRES)]
    filled = (template.format(film=film) for template in templates for film in films)
    return list(dict.fromkeys(filled))


def rows(
    tokenizer: Tokenizer, asked: Sequence[str], sentences: Sequence[str]
) -> Completions:
    """Returns prompts with sentences as their completions, tokens as they are sampled.

    Args:
        tokenizer: the policy's.
        asked: N prompts.
        sentences: N completions, without the space before and the end after them.
    """
    first = encode(tokenizer, asked)
    last = encode(tokenizer, [f" {sentence}{END}" for sentence in sentences])
    joined = [a + b for a, b in zip(first, last, strict=True)]
    lengths = [len(row) for row in joined]
    ids = np.zeros((len(joined), max(lengths)), np.int32)
    for row, tokens in zip(ids, joined, strict=True):
        row[: len(tokens)] = tokens
    starts = np.array([len(a) for a in first], np.int32)
    return Completions(
        jnp.asarray(ids), jnp.asarray(lengths, jnp.int32), jnp.asarray(starts)
    )


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Returns texts' tokens, with none added."""
    return [list(one.ids) for one in tokenizer.encode(texts)]
