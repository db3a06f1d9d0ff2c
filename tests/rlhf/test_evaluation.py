"""Figures of reward models, beside SciPy, loops, and worlds whose truth is known."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import optimize, stats

from rljax.rlhf.evaluation import (
    Comparisons,
    accuracy_by,
    calibration,
    choose_length_rule,
    ensemble_lower,
    ensemble_mean,
    ensemble_min,
    evaluate_scores,
    fit_temperature,
    k_folds,
    member_centres,
    most_wrong,
    negative_log_likelihood,
    proportion,
    wilson_interval,
)


def draws(size, *, scale=1.0, seed=0, soft=False):
    """Differences of utilities, and which one a Bradley-Terry judge preferred."""
    generator = np.random.default_rng(seed)
    d = generator.normal(0, math.sqrt(2), size)
    chance = 1 / (1 + np.exp(-d))
    return scale * d, chance if soft else (generator.random(size) < chance) * 1.0


def pairs_of(d, p, **more):
    return Comparisons.of(np.stack([d, np.zeros_like(d)], 1), probs=p, **more)


# Proportions.


@pytest.mark.parametrize(
    ("successes", "count"), [(0, 1), (1, 1), (7, 10), (1900, 2312)]
)
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_wilson_interval_is_scipys(successes, count, confidence):
    theirs = stats.binomtest(successes, count).proportion_ci(confidence, "wilson")
    ours = wilson_interval(successes, count, confidence=confidence)
    assert ours == pytest.approx(tuple(theirs), abs=1e-12)


def test_it_holds_the_truth_as_often_as_it_should():
    counts = np.random.default_rng(0).binomial(50, 0.8, 2_000)
    ends = np.array([wilson_interval(x, 50) for x in counts])
    assert 0.93 < ((ends[:, 0] <= 0.8) & (ends[:, 1] >= 0.8)).mean() < 0.97


def test_a_tie_counts_one_half():
    share, count, interval = proportion([1, 0.5, 0, 1])
    assert (share, count) == (0.625, 4)
    assert interval == wilson_interval(2.5, 4)


@pytest.mark.parametrize("numbers", ["normal", "few", "one"])
def test_bins_hold_every_pair_once_and_equal_numbers_together(numbers):
    generator = np.random.default_rng(1)
    credits = generator.integers(0, 3, 1_000) / 2
    values = {
        "normal": generator.normal(size=1_000),
        "few": generator.choice([0.0, 0.5, 3.0], 1_000, p=[0.9, 0.05, 0.05]),
        "one": np.ones(1_000),
    }[numbers]
    bins = accuracy_by(credits, values, num_bins=5)
    assert len(bins) == {"normal": 5, "few": 2, "one": 1}[numbers]
    assert all(a.high < b.low for a, b in itertools.pairwise(bins))
    assert sum(one.accuracy.num_pairs for one in bins) == 1_000
    for one in bins:
        here = [i for i in range(1_000) if one.low <= values[i] <= one.high]
        assert one.accuracy.num_pairs == len(here)
        assert one.accuracy.share == pytest.approx(sum(credits[here]) / len(here))
        assert one.mean == pytest.approx(sum(values[here]) / len(here))
        assert numbers != "normal" or len(here) == 200


def test_a_frequent_number_leaves_the_others_a_bin():
    for sizes in ([9, 1], [1, 9]):
        bins = accuracy_by(np.ones(10), np.repeat([0, 1], sizes), num_bins=2)
        assert [one.accuracy.num_pairs for one in bins] == sizes


# Calibration.


@pytest.mark.parametrize("soft", [False, True])
def test_ece_brier_and_likelihood_are_those_of_a_loop_over_both_orders(soft):
    d, p = draws(500, scale=1.7, seed=2, soft=soft)
    ours = calibration(d, p, num_bins=4)
    cells, brier, nll = {}, 0.0, 0.0
    for one, chance in zip(d, p, strict=True):
        for difference, outcome in ((one, chance), (-one, 1 - chance)):
            s = 1 / (1 + math.exp(-difference))
            index = min(int(s * 8), 7)  # eight bins over [0, 1]
            n, guess, truth = cells.get(index, (0, 0.0, 0.0))
            cells[index] = n + 1, guess + s, truth + outcome
            brier += outcome * (1 - s) ** 2 + (1 - outcome) * s**2
            nll -= outcome * math.log(s) + (1 - outcome) * math.log(1 - s)
    ece = sum(abs(guess - truth) for _, guess, truth in cells.values()) / 1_000
    assert ours.ece == pytest.approx(ece, rel=1e-9)
    assert ours.brier == pytest.approx(brier / 1_000, rel=1e-9)
    assert ours.nll == pytest.approx(nll / 1_000, rel=1e-9)


@pytest.mark.parametrize("soft", [False, True])
def test_a_bin_counts_each_pair_once(soft):
    d, p = draws(500, scale=1.7, seed=2, soft=soft)
    d[:5] = 0.0
    ours, cells = calibration(d, p, num_bins=4), {}
    for one, chance in zip(d, p, strict=True):
        sure = 1 / (1 + math.exp(-abs(one)))
        right = chance if one > 0 else 1 - chance if one < 0 else 0.5
        cells.setdefault(min(int((sure - 0.5) * 8), 3), []).append((sure, right))
    ece = sum(abs(sum(a - b for a, b in cell)) for cell in cells.values()) / 500
    assert ours.ece == pytest.approx(ece, rel=1e-9)
    for one, (index, cell) in zip(ours.reliability, sorted(cells.items()), strict=True):
        sure, right = np.mean(cell, axis=0)
        assert one.accuracy.num_pairs == len(cell)
        assert (one.mean, one.accuracy.share) == pytest.approx((sure, right))
        assert (one.low, one.high) == (0.5 + index / 8, 0.5 + (index + 1) / 8)


def test_scores_that_are_the_truth_are_calibrated():
    seen = calibration(*draws(20_000))
    assert seen.ece < 0.01
    assert 0.3 < seen.ece / seen.ece_by_chance < 2
    assert seen.temperature == pytest.approx(1, abs=0.05)
    assert calibration(*draws(20_000, scale=3.0)).ece > 0.08
    assert calibration(*draws(20_000, scale=3.0), temperature=3.0).ece == seen.ece


def test_chance_explains_a_perfect_models_error():
    few = [calibration(*draws(300, seed=seed)) for seed in range(100)]
    shown = np.mean([one.ece for one in few])
    assert shown == pytest.approx(np.mean([one.ece_by_chance for one in few]), rel=0.1)


def test_the_order_within_pairs_changes_nothing():
    d, p = draws(1_000, scale=2.0)
    chosen_first = np.where(p == 1, d, -d)
    assert calibration(chosen_first) == calibration(d, p)
    # One class of outcome would show 1 - sigma(d), however good the model.
    assert calibration(chosen_first).ece < 0.2


@pytest.mark.parametrize("scale", [1e-9, 0.1, 1.0, 30.0, 1e9])
@pytest.mark.parametrize("soft", [False, True])
def test_the_temperature_is_the_least_of_the_likelihood(scale, soft):
    d, p = draws(400, scale=scale, seed=3, soft=soft)
    least = optimize.minimize_scalar(
        lambda log_t: (
            np.logaddexp(0, -d / np.exp(log_t)) @ p
            + np.logaddexp(0, d / np.exp(log_t)) @ (1 - p)
        ),
        bounds=(math.log(scale) - 3, math.log(scale) + 3),
        options={"xatol": 1e-10},
    )
    assert fit_temperature(d, p) == pytest.approx(math.exp(least.x), rel=1e-5)
    seen = calibration(d, p)
    assert seen.nll_at_temperature == pytest.approx(least.fun / 400, rel=1e-9)
    assert seen.nll_at_temperature <= seen.nll
    if soft:
        assert fit_temperature(d, p) == pytest.approx(scale, rel=1e-9)


@pytest.mark.parametrize(
    ("differences", "temperature", "nll"),
    [
        ([1.0, 2.0, 1e-3], 0.0, 0.0),  # in the right order
        ([1.0, 0.0], 0.0, math.log(2) / 2),  # but for a tie
        ([-1.0, -2.0], math.inf, math.log(2)),
        ([1.0, -1.0], math.inf, math.log(2)),
        ([0.0, 0.0], math.inf, math.log(2)),
    ],
)
def test_where_no_temperature_is_best_the_limit_is_given(differences, temperature, nll):
    seen = calibration(differences)
    assert seen.temperature == temperature
    assert seen.nll_at_temperature == pytest.approx(nll)


@pytest.mark.parametrize(
    "differences", [[1e300, -1e-300], [1.0] * 999 + [-1e-12], [5e-324, -5e-324, 1e-310]]
)
def test_extreme_differences_have_a_temperature(differences):
    with np.errstate(all="raise", under="ignore"):
        assert fit_temperature(differences) >= 0
    assert math.isfinite(negative_log_likelihood([1e3, -1e3, 1e3]))
    assert negative_log_likelihood([1.0, -1.0], temperature=0.0) == math.inf


# Length only, and folds.


def test_length_alone():
    lengths = [[5, 3], [5, 5], [2, 9], [8, 1]]
    pairs = pairs_of(np.array([1.0, 1, -1, 1]), [1, 1, 0, 0.75], lengths=lengths)
    only = evaluate_scores(pairs).length_only
    assert only.longer.share == pytest.approx((1 + 0.5 + 1 + 0.75) / 4)
    assert only.shorter.share == pytest.approx((0 + 0.5 + 0 + 0.25) / 4)
    assert (only.rule, only.chosen_before) == ("longer", False)
    assert only.lead == pytest.approx(0.5 / 4)
    assert only.lead_interval[0] < only.lead < only.lead_interval[1]
    given = evaluate_scores(pairs, length_rule="shorter").length_only
    assert (given.rule, given.chosen_before) == ("shorter", True)
    assert given.baseline == only.shorter
    assert given.lead == pytest.approx((1 + 0.5 + 1 + 0.5) / 4)
    assert choose_length_rule(pairs) == "longer"
    assert choose_length_rule(pairs.select([2, 3, 3])) == "longer"
    flipped = Comparisons.of(pairs.scores, probs=1 - pairs.probs, lengths=lengths)
    assert choose_length_rule(flipped) == "shorter"


def test_a_pairs_length_is_that_of_what_is_preferred():
    d = np.array([1.0, 1, -1, 1, 1])
    lengths = [[9, 1], [1, 9], [9, 1], [1, 9], [99, 1]]
    pairs = pairs_of(d, [1, 1, 0, 0, 0.5], lengths=lengths)
    shorter, longer = evaluate_scores(pairs, num_bins=2).by_length
    assert (shorter.low, shorter.high, longer.low, longer.high) == (-8, -8, 8, 8)
    assert (shorter.accuracy.share, shorter.accuracy.num_pairs) == (1.0, 2)
    assert (longer.accuracy.share, longer.accuracy.num_pairs) == (0.5, 2)


@pytest.mark.parametrize("grouped", [False, True])
def test_folds_test_every_row_once_and_split_no_group(grouped):
    groups = np.random.default_rng(0).integers(0, 20, 103) if grouped else None
    folds = k_folds(103, 5, seed=1, groups=groups)
    tested = np.concatenate([test for _, test in folds])
    assert sorted(tested) == list(range(103))
    for train, test in folds:
        assert sorted([*train, *test]) == list(range(103))
        assert 15 < len(test) < 26 if grouped else len(test) in (20, 21)
        if grouped:
            assert not set(groups[train]) & set(groups[test])
    again, other = k_folds(103, 5, seed=1, groups=groups), k_folds(103, 5, seed=2)
    assert np.array_equal(again[0][1], folds[0][1])
    assert not np.array_equal(other[0][1], folds[0][1])


def test_folds_are_of_about_a_size_though_groups_are_not():
    groups = np.minimum(np.arange(100), 50)  # one of 50 rows, 50 of one
    assert [len(test) for _, test in k_folds(100, 2, groups=groups)] == [50, 50]


# Ensembles.


def test_members_are_centred_before_the_least_is_taken():
    generator = np.random.default_rng(0)
    members = generator.normal(size=(50, 2, 4))
    levels = np.array([0.0, 100.0, -1e3, 7.0])
    centres = member_centres(members)
    shifted = members + levels
    for combine in (ensemble_mean, ensemble_min, ensemble_lower):
        ours = combine(shifted, member_centres(shifted))
        assert ours.shape == (50, 2)
        np.testing.assert_allclose(ours, combine(members, centres), atol=1e-9)
    one = members[3, 1] - [members[..., m].mean() for m in range(4)]
    assert ensemble_min(members, centres)[3, 1] == pytest.approx(min(one))
    lower = one.mean() - 2 * math.sqrt(((one - one.mean()) ** 2).mean())
    assert ensemble_lower(members, centres, coef=2.0)[3, 1] == pytest.approx(lower)
    # Uncentred it is the score of one member.
    raw = ensemble_min(shifted, np.zeros(4))
    np.testing.assert_array_equal(raw, shifted[..., 2])


def test_an_ensemble_that_disagrees_is_wrong_more_often():
    generator = np.random.default_rng(0)
    doubt = generator.choice([0.1, 3.0], 4_000)
    true = generator.normal(size=(4_000, 2))
    noise = generator.normal(size=(4_000, 2, 5)) * doubt[:, None, None]
    better = (true[:, 0] > true[:, 1]) * 1.0
    pairs = Comparisons.of(members=true[..., None] + noise + np.arange(5), probs=better)
    seen = evaluate_scores(pairs, num_bins=2)
    sure, unsure = seen.by_spread
    assert sure.accuracy.interval[0] > unsure.accuracy.interval[1]
    assert dict(seen.ensemble)["mean"] == seen.accuracy
    assert [name for name, _ in seen.ensemble] == ["mean", "min", "mean_minus_std"]
    spread = np.std([true[7, 0] + noise[7, 0] - true[7, 1] - noise[7, 1]])
    assert pairs.spreads[7] == pytest.approx(spread)
    far = np.array([100.0, 0, 0, 0, 0])  # the least is always the first member's
    least = dict(evaluate_scores(pairs, centres=far).ensemble)["min"]
    alone = pairs.members[:, 0, 0] > pairs.members[:, 1, 0]
    assert least == proportion(alone == better)


# All together.


def test_a_soft_label_is_how_likely_a_judge_agrees():
    d, p = draws(5_000, soft=True)
    seen = evaluate_scores(pairs_of(d, p))
    assert seen.accuracy.share == pytest.approx(seen.bound)
    judged = (np.random.default_rng(5).random((200, 5_000)) < p) == (d > 0)
    assert seen.accuracy.share == pytest.approx(judged.mean(), abs=0.002)
    assert evaluate_scores(pairs_of(d, np.round(p))).bound == 1.0


def test_the_row_is_strict_json_and_names_the_headline():
    d, p = draws(100)
    extra = {"lengths": np.ones((100, 2)), "gaps": -np.arange(100.0)}
    row = evaluate_scores(pairs_of(d, p, **extra)).row()
    text = json.dumps(row, allow_nan=False)
    assert json.loads(text) == row
    assert row["pair_accuracy"] == ((d > 0) == p).mean()
    low, high = row["pair_accuracy_ci95"]
    assert low < row["pair_accuracy"] < high
    assert row["longer_accuracy"] == row["shorter_accuracy"] == 0.5
    hopeless = evaluate_scores(pairs_of(-np.ones(3), np.ones(3))).row()
    assert hopeless["fitted_temperature"] is None
    json.dumps(hopeless, allow_nan=False)
    members = Comparisons.of(members=np.ones((3, 2, 2)))
    row = evaluate_scores(members).row()
    assert row["ensemble_min_accuracy"] == row["pair_accuracy"] == 0.5
    assert row["ties"] == 3


def test_pairs_are_selected_with_all_that_is_known_of_them():
    d, p = draws(10)
    members = np.random.default_rng(0).normal(size=(10, 2, 3))
    pairs = pairs_of(
        d, p, gaps=-np.arange(10), lengths=np.ones((10, 2)), members=members
    )
    far = pairs.select(pairs.gaps > 6)
    np.testing.assert_array_equal(far.gaps, [7, 8, 9])
    np.testing.assert_array_equal(far.differences, d[7:])
    np.testing.assert_array_equal(far.members, members[7:])
    (by_gap,) = evaluate_scores(far, num_bins=1).by_gap
    assert by_gap.accuracy == proportion((far.differences > 0) == far.probs)


def test_the_most_wrong_are_the_surest():
    d, p = np.array([3.0, -2, 5, -1, 0, 4]), np.array([1, 1, 0, 0, 1, 0.5])
    assert most_wrong(pairs_of(d, p), 6).tolist() == [2, 1]
    assert most_wrong(pairs_of(d, p), 1).tolist() == [2]
    assert most_wrong(pairs_of(d, p), 0).tolist() == []


GOOD = np.array([[1.0, 0.0], [2.0, 3.0]])
NAN, INF = np.array([[1.0, np.nan], [0.0, 1.0]]), np.array([[1.0, 0.0], [np.inf, 0.0]])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Comparisons.of(NAN), "scores must be finite, got nan in pair 0"),
        (lambda: Comparisons.of(INF), "got inf in pair 1, and 1 in all"),
        (lambda: Comparisons.of(np.zeros((0, 2))), "at least one pair, got"),
        (lambda: Comparisons.of([1.0, 2.0]), r"shape \[N, 2\]"),
        (lambda: Comparisons.of(), "need scores, got none"),
        (lambda: Comparisons.of(GOOD, probs=[1, 1.5]), r"in \[0, 1\], got 1.5"),
        (lambda: Comparisons.of(GOOD, probs=[1, np.nan]), "probs must be finite"),
        (lambda: Comparisons.of(GOOD, probs=[1]), r"probs must have the shape \[2\]"),
        (lambda: Comparisons.of(GOOD, probs=[0.5] * 2), "in none of 2 pairs"),
        (lambda: Comparisons.of(GOOD, lengths=[1, 2]), r"the shape \[2, 2\]"),
        (lambda: Comparisons.of(GOOD, gaps=[1, np.nan]), "gaps must be finite"),
        (lambda: Comparisons.of(GOOD, members=GOOD), r"\[2, 2, members\]"),
        (lambda: Comparisons.of(GOOD).select([False] * 2), "at least one pair"),
        (lambda: choose_length_rule(Comparisons.of(GOOD)), "needs lengths, got none"),
        (lambda: wilson_interval(0, 0), "needs a trial or more"),
        (lambda: wilson_interval(3, 2), "got 3 of 2"),
        (lambda: proportion([]), "at least one credit"),
        (lambda: proportion([np.nan]), "each from 0 to 1"),
        (lambda: accuracy_by([1.0], [1.0], num_bins=0), "got 0 bins"),
        (lambda: accuracy_by([1.0], [np.inf]), "must be finite, got inf"),
        (lambda: calibration([]), "at least one pair"),
        (lambda: calibration([np.nan]), "1 and 0 that are"),
        (lambda: calibration([1.0], temperature=0.0), "positive and finite"),
        (lambda: negative_log_likelihood([1.0], temperature=-1), "at least 0, got -1"),
        (lambda: k_folds(10, 1), "num_folds must be at least 2"),
        (lambda: k_folds(3, 5), "5 folds need as many rows"),
        (lambda: k_folds(4, 2, groups=[1] * 4), "got 1. Use fewer"),
        (lambda: k_folds(4, 2, groups=[1]), "for each of 4 rows"),
        (lambda: member_centres(NAN), "1 not finite"),
        (lambda: ensemble_min(GOOD, 0.0), "one number a member"),
    ],
)
def test_it_refuses(make, words):
    with pytest.raises(ValueError, match=words):
        make()
