"""Paired differences, against what is known of them."""

import numpy as np
import pytest

from rljax.rlhf.recipes import paired_difference


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(2000):
        before = rng.normal(size=100)
        after = before + 0.2 + 0.5 * rng.normal(size=100)  # of noise that they share
        low, high = paired_difference(after, before).interval
        held.append(low < 0.2 < high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_its_width_is_that_of_the_differences():
    after, before = [1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]
    found = paired_difference(after, before)
    half = 1.96 * np.std([1.0, 0.0, 0.0, 1.0], ddof=1) / 2
    assert found.before == 0.25
    assert found.after == 0.75
    assert found.mean == 0.5
    assert found.interval == pytest.approx((0.5 - half, 0.5 + half))
    assert not found.is_gain
    assert paired_difference([1.0, 0.9], 0.5).is_gain  # than a number


@pytest.mark.parametrize(
    ("after", "before", "message"),
    [([1.0], [0.0], "two prompts or more"), ([1.0, 2.0], [1.0, 2.0, 3.0], "shapes"),
     ([1.0, np.nan], 0.0, "finite numbers, got NaN")],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(after, before, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(after, before)
