"""How positive texts are by two word lists, VADER's and AFINN's: rewards without a model."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from rljax.extras import require


def vader(texts: Sequence[str]) -> np.ndarray:
    """Returns VADER's compound scores `[N]`, from -1 to 1.

    A sum s of valences is squashed to s / sqrt(s^2 + 15): ten good words are hardly
    better than five.

    References:
        Hutto and Gilbert (2014), "VADER: a parsimonious rule-based model for sentiment
        analysis of social media text".

    Example:
        >>> vader(["A great film.", "Not a great film."]).tolist()
        [0.6249, -0.5096]
    """
    analyzer = _vader().SentimentIntensityAnalyzer()
    return np.array([analyzer.polarity_scores(t)["compound"] for t in texts])


def vader_sum(texts: Sequence[str]) -> np.ndarray:
    """Returns the sums `[N]` of the valences that VADER finds, which nothing bounds.

    A word's valence is from -4 to 4, changed by a negation or a "very" before it.
    Exclamation marks add nothing here, as they do to the compound score.

    Example:
        >>> vader_sum(["A great film.", "Great, great, great!"]).round(1).tolist()
        [3.1, 9.3]
    """
    analyzer = _vader().SentimentIntensityAnalyzer()
    # The valences pass through this method on their way to the compound score.
    analyzer.score_valence = lambda valences, text: float(sum(valences))
    return np.array([analyzer.polarity_scores(text) for text in texts])


def afinn(texts: Sequence[str]) -> np.ndarray:
    """Returns the sums `[N]` of AFINN's ratings of words, each from -5 to 5.

    References:
        Nielsen (2011), "A new ANEW: evaluation of a word list for sentiment analysis in
        microblogs", https://arxiv.org/abs/1103.2903.

    Example:
        >>> afinn(["A great film.", "Not a great film.", "Awful."]).tolist()
        [3.0, 3.0, -3.0]
    """
    scorer = _afinn()
    return np.array([float(scorer.score(text)) for text in texts])


def _vader() -> Any:
    return require("vaderSentiment.vaderSentiment", "VADER's scores need", "sentiment")


@functools.cache
def _afinn() -> Any:
    return require("afinn", "AFINN's scores need", "sentiment").Afinn()
