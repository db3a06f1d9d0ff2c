"""Pairs of rated texts, against all pairs counted one by one."""

import itertools

import numpy as np
import pytest

from rljax.rlhf.data.ratings import pairs_by_gap, pairs_by_raters, split_places

MEANS = [0.5, -1.0, 0.5, 2.0, 1.5, -1.0, 0.0]


def by_hand(means, min_gap, strict):
    pairs = itertools.permutations(range(len(means)), 2)
    gaps = {(i, j): means[i] - means[j] for i, j in pairs}
    if strict:
        return {pair for pair, gap in gaps.items() if gap > min_gap}
    return {pair for pair, gap in gaps.items() if gap >= min_gap}


@pytest.mark.parametrize("min_gap", [0.0, 0.5, 1.0, 2.9])
def test_all_pairs_by_gap(min_gap):
    expected = by_hand(MEANS, min_gap, strict=True)
    pairs = pairs_by_gap(MEANS, min_gap=min_gap)
    found = list(map(tuple, pairs.places.tolist()))
    assert len(found) == len(set(found))
    assert set(found) == expected
    np.testing.assert_array_equal(pairs.gaps, [MEANS[i] - MEANS[j] for i, j in found])
    np.testing.assert_array_equal(pairs.probs, np.ones(len(found)))


def test_pairs_by_gap_where_rounding_decides():
    means = np.random.default_rng(0).integers(-20, 20, 60) / 10
    for min_gap in (0.1, 0.3, 1.0):
        found = pairs_by_gap(means, min_gap=min_gap).places
        expected = by_hand(means, min_gap, strict=True)
        assert set(map(tuple, found.tolist())) == expected
        assert len(found) == len(expected)


def test_each_pair_is_drawn_as_often():
    counts = dict.fromkeys(by_hand(MEANS, 0.5, strict=True), 0)
    for seed in range(600):
        for pair in pairs_by_gap(MEANS, min_gap=0.5, num_pairs=4, seed=seed).places:
            counts[tuple(pair.tolist())] += 1
    expected = 600 * 4 / len(counts)
    squares = sum((n - expected) ** 2 / expected for n in counts.values())
    # Chi squared with fewer than len(counts) degrees of freedom: 1e-4 and less.
    assert squares < len(counts) + 6 * np.sqrt(2 * len(counts))


def test_the_same_seed_draws_the_same_pairs():
    first, again, other = (pairs_by_gap(MEANS, num_pairs=9, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.places, again.places)
    assert (first.places != other.places).any()


def test_pairs_by_raters_are_as_noisy_as_the_raters():
    ratings = [[0, 1], [1, 1, 2], [1], [0, 0, 0, 3]]

    def prob(i, j):
        wins = sum(a > b for a, b in itertools.product(ratings[i], ratings[j]))
        losses = sum(a < b for a, b in itertools.product(ratings[i], ratings[j]))
        return wins / (wins + losses)

    first = {pair: 0 for pair in itertools.permutations(range(4), 2)}
    for seed in range(3000):
        pairs = pairs_by_raters(ratings, num_pairs=1, seed=seed)
        ((i, j),) = pairs.places.tolist()
        first[i, j] += 1
        assert pairs.gaps[0] == pytest.approx(np.mean(ratings[i]) - np.mean(ratings[j]))
        assert pairs.probs[0] == prob(i, j)
    for i, j in itertools.combinations(range(4), 2):
        wins, total = first[i, j], first[i, j] + first[j, i]
        p = prob(i, j)
        deviation = np.sqrt(total * p * (1 - p))
        assert total > 100
        assert abs(wins - total * p) <= 4 * deviation


def test_pairs_by_raters_have_the_least_gap_and_are_all_there():
    ratings = [[value] for value in MEANS]
    expected = {pair for pair in by_hand(MEANS, 0.5, strict=False)}
    pairs = pairs_by_raters(ratings, min_gap=0.5, num_pairs=len(expected))
    assert set(map(tuple, pairs.places.tolist())) == expected
    assert (pairs.gaps >= 0.5).all()
    np.testing.assert_array_equal(pairs.probs, np.ones(len(expected)))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: pairs_by_gap([1, np.nan]), "finite, got nan. Leave out"),
        (lambda: pairs_by_gap([1, 2], min_gap=-1), "at least 0, got -1"),
        (lambda: pairs_by_gap([1, 2], min_gap=np.nan), "at least 0, got nan"),
        (lambda: pairs_by_gap([1, 2], num_pairs=0), "at least 1"),
        (lambda: pairs_by_gap([3, 3, 3]), "3 texts have 0 .* more than 0"),
        (lambda: pairs_by_gap([]), "0 texts have 0"),
        (lambda: pairs_by_gap([1, 2, 3], num_pairs=4), "4 pairs were .* have 3 whose"),
        (lambda: pairs_by_raters([[1], []], num_pairs=1), "text 1 has no ratings"),
        (lambda: pairs_by_raters([[1], [np.inf]], num_pairs=1), "finite, got inf"),
        (lambda: pairs_by_raters([[1, 1], [1]], num_pairs=1), "have 0 whose"),
        (lambda: pairs_by_raters([], num_pairs=1), "0 texts have 0"),
        (lambda: split_places("ab", [0.5, 0.6]), "the sum 1"),
        (lambda: split_places("aa", [0.5, 0.5]), "1 different rows cannot"),
    ],
)
def test_what_cannot_be_drawn(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_equal_texts_are_in_one_split():
    keys = [f"text {i % 70}" for i in range(100)]
    splits = split_places(keys, [0.7, 0.2, 0.1], seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate(splits)), np.arange(100))
    texts = [{keys[i] for i in places} for places in splits]
    assert [len(one) for one in texts] == [49, 14, 7]
    assert not any(a & b for a, b in itertools.combinations(texts, 2))
    again = split_places(keys, [0.7, 0.2, 0.1], seed=3)
    assert all(map(np.array_equal, splits, again))
    assert not np.array_equal(splits[2], split_places(keys, [0.7, 0.2, 0.1])[2])
