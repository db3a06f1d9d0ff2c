import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.report.statistics import bootstrap_interval, interquartile_mean


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
