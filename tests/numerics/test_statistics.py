import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.numerics.statistics import (
    bootstrap_interval,
    interquartile_mean,
    probability_of_improvement,
)


def quarter_trimmed_mean(x, axis=0):
    return scipy.stats.trim_mean(x, 0.25, axis=axis)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_the_interquartile_mean_is_scipys_trimmed_mean(scores):
    found, expected = interquartile_mean(scores), quarter_trimmed_mean(scores)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-6)


@pytest.mark.parametrize("outlier", [1e9, -1e9, np.inf, -np.inf])
def test_the_interquartile_mean_ignores_one_wild_run_in_four(outlier):
    assert 0 <= interquartile_mean([0.0, 1.0, 2.0, outlier]) <= 2


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_interval_is_scipys_percentile_bootstrap(confidence):
    scores = np.random.default_rng(0).gamma(2, size=20)
    low, high = bootstrap_interval(scores, confidence=confidence)
    expected = scipy.stats.bootstrap(
        (scores,),
        quarter_trimmed_mean,
        n_resamples=20_000,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(1),
    )
    # An end has a Monte-Carlo error below 1 % of the width at 10,000 resamples.
    tolerance = 0.05 * (high - low)
    np.testing.assert_allclose(
        (low, high), expected.confidence_interval, rtol=0, atol=tolerance
    )


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    data = np.random.default_rng(0).normal(size=(200, 20))
    intervals = [bootstrap_interval(x, num_resamples=500) for x in data]
    coverage = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.85 < coverage < 0.99  # the percentile bootstrap falls a little short


def test_the_interval_depends_on_its_seed_alone():
    scores = [1.0, 2.0, 5.0, 7.0, 8.0]
    first = bootstrap_interval(scores, seed=1)
    assert bootstrap_interval(scores, seed=1) == first


def test_a_surer_interval_is_wider():
    scores = np.random.default_rng(0).normal(size=10)
    low, high = bootstrap_interval(scores, confidence=0.99)
    inner_low, inner_high = bootstrap_interval(scores, confidence=0.5)
    assert low < inner_low < inner_high < high


def test_equal_runs_have_an_interval_of_no_width():
    assert bootstrap_interval([3.0] * 5) == (3.0, 3.0)


def test_one_run_has_no_interval():
    assert bootstrap_interval([3.0]) is None


RLIABLE = json.loads(
    (Path(__file__).parents[1] / "golden" / "rliable.json").read_text()
)


@pytest.mark.parametrize("name", RLIABLE["cases"])
def test_the_interquartile_mean_and_its_interval_are_rliables(name):
    case = RLIABLE["cases"][name]
    scores = np.array(case["scores"])
    np.testing.assert_allclose(interquartile_mean(scores), case["iqm"], rtol=1e-8)
    found = [bootstrap_interval(scores, num_resamples=50_000, seed=i) for i in range(4)]
    # The ends that other seeds find are spread by the Monte-Carlo error; rliable's are
    # one more such draw. Six times that, and never less than 0.1 % of the width.
    mean, spread = np.mean(found, axis=0), np.std(found, axis=0, ddof=1)
    tolerance = np.maximum(6 * spread, 1e-3 * (mean[1] - mean[0]))
    assert np.all(np.abs(mean - case["interval"]) < tolerance)
    assert np.all(tolerance < 0.05 * (mean[1] - mean[0]))


def test_strata_are_resampled_on_their_own():
    scores = np.array([[0.0, 100.0], [0.0, 100.0], [0.0, 100.0]])
    assert bootstrap_interval(scores) == (50.0, 50.0)
    low, high = bootstrap_interval(scores.ravel())
    assert high - low > 10


def test_the_probability_of_improvement_is_rliables():
    pair = RLIABLE["pair"]
    found = probability_of_improvement(pair["x"], pair["y"])
    np.testing.assert_allclose(found.probability, pair["probability"], rtol=1e-12)
    # Of 2,000 resamples an end has a Monte-Carlo error of about 2 % of the width.
    width = found.interval[1] - found.interval[0]
    np.testing.assert_allclose(found.interval, pair["interval"], atol=0.1 * width)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=20),
    st.lists(st.integers(-3, 3), min_size=1, max_size=20),
)
def test_the_probability_of_improvement_is_mann_and_whitneys(scores, others):
    statistic = scipy.stats.mannwhitneyu(scores, others).statistic
    found = probability_of_improvement(scores, others)
    expected = statistic / (len(scores) * len(others))
    np.testing.assert_allclose(found.probability, expected, rtol=1e-12)
    if found.interval is not None:
        assert found.interval[0] <= found.interval[1]


def test_the_probability_of_improvement_without_enough_scores():
    assert probability_of_improvement([2.0], [1.0, 1.5]) == (1.0, None)
    probability, interval = probability_of_improvement([2.0, np.nan], [1.0, 1.5])
    assert np.isnan(probability)
    assert interval is None
    with pytest.raises(ValueError, match="got 0 and 1"):
        probability_of_improvement([], [1.0])
