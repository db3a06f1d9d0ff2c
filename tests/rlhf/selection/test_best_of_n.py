"""Best of n against enumeration of every case, and against sampling."""

import itertools
import math

import numpy as np
import pytest

from rljax.rlhf.selection import (
    best_of_n,
    best_of_n_kl_bound,
    best_of_n_law,
    best_of_n_means,
)

PROBS = np.array([0.1, 0.3, 0.2, 0.25, 0.15])
SCORES = np.array([2.0, -1.0, 0.5, 0.5, 3.0])  # two are tied


def law_by_enumeration(probs, scores, n):
    law = np.zeros(len(probs))
    for drawn in itertools.product(range(len(probs)), repeat=n):
        best = max(scores[i] for i in drawn)
        tied = [i for i in drawn if scores[i] == best]
        for i in tied:
            law[i] += math.prod(probs[list(drawn)]) / len(tied)
    return law


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_law_is_that_of_all_samples(n):
    want = law_by_enumeration(PROBS, SCORES, n)
    np.testing.assert_allclose(best_of_n_law(PROBS, SCORES, n), want, rtol=1e-12)


def test_the_law_is_that_of_what_is_sampled():
    rng = np.random.default_rng(0)
    drawn = rng.choice(5, size=(200_000, 3), p=PROBS)
    given = drawn[np.arange(len(drawn)), best_of_n(SCORES[drawn])]
    share = np.bincount(given, minlength=5) / len(drawn)
    law = best_of_n_law(PROBS, SCORES, 3)
    assert np.all(abs(share - law) < 5 * np.sqrt(law * (1 - law) / len(drawn)))


def test_the_law_of_what_is_never_sampled():
    law = best_of_n_law([0.5, 0.0, 0.5], [1.0, 2.0, 3.0], 3)
    np.testing.assert_allclose(law, [1 / 8, 0, 7 / 8])


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_the_estimate_is_the_mean_over_all_subsets(n):
    rng = np.random.default_rng(1)
    proxy, gold = rng.integers(0, 3, 6).astype(float), rng.normal(size=6)
    means = []
    for subset in map(list, itertools.combinations(range(6), n)):
        best = proxy[subset].max()
        means.append(np.mean([gold[i] for i in subset if proxy[i] == best]))
    # Of equals one is drawn from all that have the score, in the subset or not; over all
    # subsets that is the same.
    assert best_of_n_means(proxy, gold)[n - 1] == pytest.approx(np.mean(means))


def test_the_estimate_is_unbiased():
    gold = np.array([1.0, -2.0, 0.3, 4.0, 2.5])
    expected = np.zeros(4)
    for drawn in itertools.product(range(5), repeat=4):
        weight = math.prod(PROBS[list(drawn)])
        expected += weight * best_of_n_means(SCORES[list(drawn)], gold[list(drawn)])
    laws = [best_of_n_law(PROBS, SCORES, n) for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(expected, [law @ gold for law in laws], rtol=1e-10)


def test_estimates_of_many_prompts_and_of_many_samples():
    rng = np.random.default_rng(2)
    proxy, gold = rng.normal(size=(2, 3, 7, 400))
    means = best_of_n_means(proxy, gold)
    assert means.shape == (3, 7, 400)
    np.testing.assert_allclose(means[..., 0], gold.mean(-1))
    best = np.take_along_axis(gold, best_of_n(proxy)[..., None], -1)[..., 0]
    np.testing.assert_allclose(means[..., -1], best)
    np.testing.assert_allclose(best_of_n_means(proxy, np.ones_like(gold)), 1.0)
    np.testing.assert_allclose(means[1, 2], best_of_n_means(proxy[1, 2], gold[1, 2]))


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_the_kl_is_bounded(n):
    bound = float(best_of_n_kl_bound(n))
    assert kl(best_of_n_law(PROBS, SCORES, n), PROBS) <= bound + 1e-12
    # The more completions there are, the fewer samples are the same.
    for size, gap in [(100, 0.2), (100_000, 1e-3)]:
        probs = np.full(size, 1 / size)
        found = kl(best_of_n_law(probs, np.arange(size), n), probs)
        assert bound - gap <= found <= bound + 1e-12


def test_what_has_no_order_is_refused():
    with pytest.raises(ValueError, match="scores must be numbers, got NaN at"):
        best_of_n([0.0, math.nan])
    with pytest.raises(ValueError, match="at least one number"):
        best_of_n(np.zeros((3, 0)))
    with pytest.raises(ValueError, match=r"same samples, got shapes \(2,\) and \(3,\)"):
        best_of_n_means([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="sum 1, got the sum 2"):
        best_of_n_law([1, 1], [1, 2], 2)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        best_of_n_law([1.0], [1.0], 0)
    with pytest.raises(ValueError, match="n must be at least 1"):
        best_of_n_kl_bound([1, 0.5])
    with pytest.raises(ValueError, match="same S completions"):
        best_of_n_law([1.0], [1.0, 2.0], 2)
