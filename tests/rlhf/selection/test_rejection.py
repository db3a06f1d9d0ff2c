import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.data.rows import Completions
from rljax.rlhf.selection import (
    best_per_prompt,
    matched_control,
    scored_at_least,
    take,
    top_overall,
)
from rljax.rlhf.training.microbatches import check_rows

RNG = np.random.default_rng(0)
PROMPTS = np.array([7, 2, 7, 2, 7, 5, 2, 7])
SCORES = np.array([0.5, 0.1, 0.9, 0.1, 0.9, -3.0, 0.7, 0.2])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_best_of_each_prompt(count):
    want = []
    for prompt in sorted(set(PROMPTS)):
        places = [i for i in range(8) if PROMPTS[i] == prompt]
        want += sorted(places, key=lambda i: -SCORES[i])[:count]
    assert best_per_prompt(SCORES, PROMPTS, count).tolist() == want


def test_the_best_of_all():
    assert top_overall(SCORES, 4).tolist() == [2, 4, 6, 0]
    assert scored_at_least(SCORES, 0.5).tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("places", [[2, 6, 5], [0, 2, 4, 7], [1], []])
def test_a_control_has_as_many_of_each_prompt(places):
    places = np.array(places, int)
    control = matched_control(jax.random.key(0), places, PROMPTS)
    assert sorted(PROMPTS[control]) == sorted(PROMPTS[places])
    assert len(set(control.tolist())) == len(control)


def test_every_sample_of_a_prompt_is_as_likely_in_a_control():
    counts = np.zeros(8)
    for key in jax.random.split(jax.random.key(1), 300):
        counts[matched_control(key, [2, 4, 6], PROMPTS)] += 1
    for prompt, share in [(7, 2 / 4), (2, 1 / 3), (5, 0)]:
        found = counts[prompt == PROMPTS] / 300
        assert np.all(abs(found - share) <= 5 * math.sqrt(share * (1 - share) / 300))


def test_what_is_taken_are_rows_to_fine_tune_on():
    ids = RNG.integers(0, 9, (8, 6))
    lengths, starts = RNG.integers(4, 7, 8), RNG.integers(1, 4, 8)
    samples = Completions(*map(jnp.int32, (ids, lengths, starts)))
    places = best_per_prompt(SCORES, PROMPTS)
    rows = take(samples, places)
    np.testing.assert_array_equal(rows.ids, ids[places])
    np.testing.assert_array_equal(rows.lengths, lengths[places])
    np.testing.assert_array_equal(rows.starts, starts[places])
    check_rows(rows, 3, (6,))


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(ValueError, match="score of sample 1 is NaN"):
        best_per_prompt([0.0, math.nan], [0, 0])
    with pytest.raises(ValueError, match=r"got shapes \(2,\) and \(3,\)"):
        best_per_prompt([0.0, 1.0], [0, 0, 1])
    with pytest.raises(ValueError, match=r"count must lie in \[1, 2\]"):
        top_overall([0.0, 1.0], 3)
    with pytest.raises(ValueError, match="no score is at least 2, the highest is 1"):
        scored_at_least([0.0, 1.0], 2)
    for bad in ([1, 1], [8], [-1]):
        with pytest.raises(ValueError, match="different places among the 8 samples"):
            matched_control(jax.random.key(0), bad, PROMPTS)
