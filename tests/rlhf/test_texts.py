"""Variety of texts, beside counts made by hand and by loops."""

import numpy as np
import pytest

from rljax.rlhf.evaluation import distinct_n, repetition


def test_counts_made_by_hand():
    texts = ["Good, good film!", "It's good."]
    assert distinct_n(texts, 1) == 3 / 5  # good, film, it's
    assert distinct_n(texts, 2) == 1.0
    assert distinct_n(["good good good good"], 2) == 1 / 3
    np.testing.assert_allclose(repetition([*texts, "", "..."]), [2 / 3, 1 / 2, 0, 0])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_random_words_beside_a_loop(n):
    generator = np.random.default_rng(n)
    texts = [" ".join(generator.choice(["a", "b", "c"], size)) for size in range(9)]
    grams = [text.split()[i:][:n] for text in texts for i in range(len(text.split()))]
    grams = ["|".join(gram) for gram in grams if len(gram) == n]
    assert distinct_n(texts, n) == len(set(grams)) / len(grams)


def test_n_grams_do_not_cross_texts():
    assert distinct_n(["a b", "b a", "a b"], 2) == 2 / 3


def test_without_words():
    assert np.isnan(distinct_n(["one", "two"], 2))
    assert repetition([]).shape == (0,)
    with pytest.raises(ValueError, match="n must be at least 1"):
        distinct_n(["a"], 0)
