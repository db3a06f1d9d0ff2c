"""How often each token is drawn, against distributions truncated by sorting in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rljax.rlhf.generation.sampling import (
    WHOLE,
    Truncation,
    draw,
    exponentials,
    row_words,
)

NUM_DRAWS = 100_000
# From likely to rare, two of them equally likely.
LOGITS = np.array([0.1, 2.0, -3.0, 1.2, 0.1, -1.0, 0.7, -0.4, -6.0, 1.5, -2.0, 0.4])
WAYS = {
    "whole": ({}, {}),
    "temperature": ({}, {"temperature": 0.6}),
    "top_k": ({"top_k": 5}, {}),
    "top_p": ({"top_p": 0.8}, {}),
    "min_p": ({"min_p": 0.2}, {}),
    "all": ({"top_k": 8, "top_p": 0.95, "min_p": 0.1}, {"temperature": 1.3}),
}
# Less often than this in many runs would a test of a right sampler fail.
SIGNIFICANCE = 1e-4


def distribution(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """Probabilities as transformers truncates them: by each rule what the last has left."""
    with np.errstate(over="ignore"):
        logits = (logits - np.max(logits)).astype(np.float64) / temperature
    if top_k is not None:
        kth = np.sort(logits)[::-1][min(top_k, len(logits)) - 1]
        logits = np.where(logits < kth, -np.inf, logits)
    if top_p is not None:
        order = np.argsort(-logits, kind="stable")
        probs = np.exp(logits[order])
        before = np.cumsum(probs) - probs
        kept = before / probs.sum() < top_p
        # Where it must stop among equals, all of them stay.
        kept |= logits[order] == logits[order][kept][-1]
        logits[order[~kept]] = -np.inf
    weights = np.exp(logits)
    if min_p is not None:
        weights[weights < min_p * weights.max()] = 0
    return weights / weights.sum()


@functools.partial(jax.jit, static_argnames=("truncation", "greedy"))
def draws(logits, key, temperature=1.0, truncation=WHOLE, greedy=False):
    words = row_words(jax.random.split(key, NUM_DRAWS))
    logits = jnp.broadcast_to(logits[None], (NUM_DRAWS, *logits.shape))
    options = {"temperature": temperature, "truncation": truncation, "greedy": greedy}
    return draw(logits, words, jnp.int32(3), **options)


def power(wrong, right):
    """The probability that the test below finds tokens drawn from another distribution."""
    right, wrong = right[right > 0], wrong[right > 0]
    critical = scipy.stats.chi2.isf(SIGNIFICANCE, len(right) - 1)
    shift = NUM_DRAWS * ((wrong - right) ** 2 / right).sum()
    return scipy.stats.ncx2.sf(critical, len(right) - 1, shift)


@pytest.mark.some_cases(2)
@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_drawn_as_often_as_they_are_probable(way):
    rules, more = WAYS[way]
    probs = distribution(LOGITS, **more, **rules)
    ids, log_probs = draws(
        jnp.float32(LOGITS), jax.random.key(1), truncation=Truncation(**rules), **more
    )
    np.testing.assert_allclose(log_probs, np.log(probs[ids]), atol=1e-5)
    counts = np.bincount(ids, minlength=len(probs))
    assert not counts[probs == 0].any()
    kept = probs > 0
    _, pvalue = scipy.stats.chisquare(counts[kept], NUM_DRAWS * probs[kept])
    assert pvalue > SIGNIFICANCE
    # It would find a temperature that is wrong by 10 %, and a token drawn less by a tenth.
    temperature = more.get("temperature", 1.0)
    warmer = distribution(LOGITS, temperature * 1.1, **rules)
    if not (warmer[~kept]).any():
        assert power(warmer, probs) > 0.99
    second = np.argsort(-probs)[1]
    rarer = np.where(np.arange(len(probs)) == second, 0.9, 1.0) * probs
    assert power(rarer / rarer.sum(), probs) > 0.99


def test_noise_is_exponential_and_fine_where_rare_tokens_are_drawn():
    size = 2**21
    words = jnp.ones((1, 2), jnp.uint32)
    noise = jax.jit(exponentials, static_argnums=2)(words, jnp.int32(0), size)[0]
    noise = np.sort(np.float64(noise))
    assert scipy.stats.kstest(noise[::64], "expon").pvalue > SIGNIFICANCE
    assert noise[0] > 0
    assert noise[-1] < np.inf
    # A token of a probability of 1e-8 needs a smaller number than 23 bits have.
    small = noise[noise < 1e-3]
    assert 1900 < small.size < 2300  # 2,096 are expected, give or take 46
    assert np.unique(small).size > 0.99 * small.size


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_noise_of_a_row_does_not_depend_on_its_batch(kind):
    keys = jax.random.split(jax.random.key(2), 64)
    words = row_words(jax.random.clone(keys))
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(64, 33)), kind)
    noise = exponentials(words, jnp.int32(5), 33)
    ids, log_probs = draw(logits, words, jnp.int32(5))
    assert np.unique(noise).size > 64 * 32
    for i in (0, 17, 63):
        alone = row_words(jax.random.clone(keys)[i : i + 1])
        assert jnp.array_equal(alone, words[i : i + 1])
        assert jnp.array_equal(exponentials(alone, jnp.int32(5), 33)[0], noise[i])
        one, log_prob = draw(logits[i : i + 1], alone, jnp.int32(5))
        assert one[0] == ids[i]
        np.testing.assert_allclose(log_prob[0], log_probs[i], rtol=1e-6)
    other = exponentials(words, jnp.int32(6), 33)
    assert not jnp.isin(other, noise).any()


RULES = {
    "none": Truncation(),
    "top_k": Truncation(top_k=1),
    "top_p": Truncation(top_p=0.5),
    "min_p": Truncation(min_p=1.0),
    "all": Truncation(top_k=2, top_p=0.9, min_p=0.01),
}


@pytest.mark.some_cases(2)
@pytest.mark.parametrize("rule", RULES)
def test_one_token_with_all_the_mass_is_drawn(rule):
    wide = [[0.0, 1e30, -1e30], [-np.inf, 0.0, -np.inf], [-3e38, 3e38, -np.inf]]
    for logits in (jnp.float32(wide), jnp.asarray([[0, 300, 1]], jnp.bfloat16)):
        for temperature in (1.0, 1e-3):
            ids, log_probs = draw_rows(logits, temperature, RULES[rule])
            assert (np.asarray(ids) == 1).all()
            assert (np.asarray(log_probs) == 0).all()


@functools.partial(jax.jit, static_argnums=2)
def draw_rows(logits, temperature, truncation):
    words = row_words(jax.random.split(jax.random.key(3), len(logits)))
    options = {"temperature": temperature, "truncation": truncation}
    return draw(logits, words, jnp.int32(0), **options)


def test_rules_that_leave_all_tokens_change_nothing():
    want = draws(jnp.float32(LOGITS), jax.random.key(1))
    for rules in ({"top_k": 12}, {"top_k": 10**6}, {"top_p": 1.0}, {"min_p": 1e-30}):
        got = draws(
            jnp.float32(LOGITS), jax.random.key(1), truncation=Truncation(**rules)
        )
        assert all(map(jnp.array_equal, got, want)), rules


def test_tokens_as_probable_as_the_last_one_kept_are_kept():
    logits = jnp.float32([1.0, 2.0, 1.0, 1.0, -1.0])
    for rules in ({"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.36}):
        ids, log_probs = draws(
            logits, jax.random.key(1), truncation=Truncation(**rules)
        )
        assert set(np.unique(ids)) == {0, 1, 2, 3}
        shares = np.exp([1.0, 2.0, 1.0, 1.0, -np.inf])
        want = np.log(shares[ids] / shares.sum())
        np.testing.assert_allclose(log_probs, want, atol=1e-6)


def test_greedy_takes_the_first_of_the_most_probable():
    ids, log_probs = draws(jnp.float32([0.0, 1.0, 1.0]), jax.random.key(1), greedy=True)
    assert (np.asarray(ids) == 1).all()
    np.testing.assert_allclose(log_probs, -np.log(2 + np.exp(-1)), rtol=1e-6)


@pytest.mark.some_cases(2)
@pytest.mark.parametrize(
    "rules",
    [
        {"top_k": 7}, {"top_p": 0.9}, {"top_p": 0.02}, {"min_p": 0.05},
        {"top_k": 40, "top_p": 0.7}, {"top_k": 500, "top_p": 0.95, "min_p": 0.01},
    ],
)  # fmt: skip
def test_truncation_of_many_distributions_is_that_by_sorting(rules):
    scales = np.repeat([0.1, 1.0, 3.0, 30.0], 4)[:, None]
    logits = np.random.default_rng(1).normal(size=(16, 1500)) * scales
    logits = logits.astype(np.float32)
    ids, log_probs = draw_rows(logits, 1.0, Truncation(**rules))
    for row, token, log_prob in zip(logits, ids, log_probs, strict=True):
        probs = distribution(row, **rules)
        np.testing.assert_allclose(log_prob, np.log(probs[token]), atol=2e-5)


def test_rules_that_keep_nothing_are_refused():
    for rules, named in (
        ({"top_k": 0}, "top_k must be at least 1 token, got 0"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0.0"),
        ({"min_p": 1.5}, r"min_p must lie in \(0, 1\], got 1.5"),
    ):
        with pytest.raises(ValueError, match=named):
            Truncation(**rules)
