"""How varied texts are: what a reward that is won by repeating a word does not show."""

import collections
import re
from collections.abc import Sequence

import numpy as np

from rljax.numerics.validation import check_at_least


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Returns the share of different n-grams among all n-grams of words of the texts.

    The n-grams are pooled over the texts, within each of them. More texts have a lower
    share, so that only equal numbers of texts, about equally long, can be compared.

    Args:
        texts: any number; words are runs of letters, digits and apostrophes, in lower case.
        n: words of an n-gram, at least 1.

    Returns:
        In (0, 1]; NaN where no text has n words.

    Raises:
        ValueError: n is less than 1.

    References:
        Li et al. (2016), "A diversity-promoting objective function for neural conversation
        models", https://arxiv.org/abs/1510.03055.

    Example:
        >>> distinct_n(["a good film", "a good cast"], 2)
        0.75
    """
    check_at_least(1, n=n)
    found = [
        tuple(words[i : i + n])
        for words in map(_words, texts)
        for i in range(len(words) - n + 1)
    ]
    return len(set(found)) / len(found) if found else float("nan")


def repetition(texts: Sequence[str]) -> np.ndarray:
    """Returns the share `[N]` of each text's words that is its most frequent word.

    Args:
        texts: N of them; words are those of `distinct_n`.

    Returns:
        `[N]` float64 in (0, 1]: 1 where a text is one word over and over, and 0 where it
        has no words.

    Example:
        >>> repetition(["good good Good film", "a good film, a good cast"]).round(2).tolist()
        [0.75, 0.33]
    """
    return np.array([_largest_share(_words(text)) for text in texts], np.float64)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def _largest_share(words: list[str]) -> float:
    return max(collections.Counter(words).values()) / len(words) if words else 0.0
