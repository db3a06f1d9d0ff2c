"""Heads are at the minimum of their loss, and are the same in a population and alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.data.encoding import EncodingConfig, encode_pairs
from rljax.rlhf.data.tokenizer import ByteTokenizer
from rljax.rlhf.frozen import heads
from rljax.rlhf.frozen.features import frozen_features
from rljax.rlhf.frozen.heads import (
    HeadHyperparams,
    JudgedTexts,
    RatedTexts,
    fit_heads,
    head_scores,
    prepare,
    with_heads,
)
from rljax.rlhf.models import RewardModel, TransformerConfig
from rljax.rlhf.pretrained import load_reward_model, save_reward_model
from rljax.rlhf.scoring import Scorer

NUM_LAYERS, NUM_TEXTS, WIDTH, NUM_PAIRS = 2, 60, 5, 200


def problem():
    """Features of unlike scales that are far from 0, soft labels, and three splits."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(WIDTH, WIDTH))
    features = rng.normal(size=(NUM_LAYERS, NUM_TEXTS, WIDTH)) @ mixing
    features = (features * [0.01, 1, 1, 10, 1] + [1, 0, 5, 100, 0]).astype(np.float32)
    pairs = rng.integers(0, NUM_TEXTS, (NUM_PAIRS, 2))
    weights = rng.integers(0, 3, (3, NUM_PAIRS)).astype(np.float32)
    return features, JudgedTexts.of(pairs, rng.uniform(0, 1, NUM_PAIRS)), weights


def minimum(features, comparisons, weights, l2):
    """Kernel and bias in float64, by Newton's method on explicit differences."""
    features = features.astype(np.float64)
    pairs, probs = np.asarray(comparisons.pairs), np.asarray(comparisons.probs)
    used = np.repeat(pairs, weights.astype(int), axis=0).ravel()
    mean, std = features[used].mean(axis=0), features[used].std(axis=0)
    standard = (features - mean) / std
    rows = standard[pairs[:, 0]] - standard[pairs[:, 1]]
    share = weights / weights.sum()
    u = np.zeros(WIDTH)
    for _ in range(20):
        p = 1 / (1 + np.exp(-rows @ u))
        gradient = rows.T @ (share * (p - probs)) + 2 * l2 * u
        bend = (rows.T * (share * p * (1 - p))) @ rows + 2 * l2 * np.eye(WIDTH)
        u = u - np.linalg.solve(bend, gradient)
    return u / std, -mean @ (u / std)


def grid(**values):
    return HeadHyperparams(**{name: np.array(x) for name, x in values.items()})


EVERY = grid(
    l2=[1e-4, 1e-2, 1.0, 1e-2, 1e-2, 1e-4, 1e-2],
    layer=[0, 0, 0, 1, 0, 1, 1],
    split=[0, 0, 0, 0, 2, 1, 2],
)


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("block_size", [1, 3, 32])
def test_heads_are_at_the_minimum(block_size):
    features, comparisons, weights = problem()
    found = fit_heads(
        prepare(features),
        comparisons,
        EVERY,
        weights,
        block_size=block_size,
        tolerance=1e-6,
    )
    assert (np.asarray(found.num_iterations) < 30).all()
    for i, (l2, layer, split) in enumerate(
        zip(EVERY.l2, EVERY.layer, EVERY.split, strict=True)
    ):
        of_layer = features[layer]
        kernel, bias = minimum(of_layer, comparisons, weights[split], l2)
        std = of_layer.std(axis=0)
        scale = np.abs(kernel * std).max()
        np.testing.assert_allclose(
            found.kernel[i] * std, kernel * std, atol=2e-4 * scale, rtol=0
        )
        expected = of_layer @ kernel + bias
        one = jax.tree.map(lambda x, i=i: x[i], found)
        np.testing.assert_allclose(head_scores(one, of_layer), expected, atol=2e-3)
        pairs = np.asarray(comparisons.pairs)
        z = expected[pairs[:, 0]] - expected[pairs[:, 1]]
        p = np.asarray(comparisons.probs)
        losses = p * np.logaddexp(0, -z) + (1 - p) * np.logaddexp(0, z)
        loss = np.average(losses, weights=weights[split])
        assert found.loss[i] == pytest.approx(loss, abs=1e-5)


@pytest.mark.slow
def test_a_head_in_a_population_is_that_head_alone():
    features, comparisons, weights = problem()
    prepared = prepare(features)
    together = fit_heads(prepared, comparisons, EVERY, weights)
    assert together.kernel.shape == (7, WIDTH)
    for i in range(7):
        one = jax.tree.map(lambda x, i=i: x[i], EVERY)
        alone = fit_heads(prepared, comparisons, one, weights)
        assert alone.kernel.shape == (WIDTH,)
        for layer in features:
            np.testing.assert_allclose(
                head_scores(alone, layer), head_scores(together, layer)[i], atol=2e-3
            )


def test_other_values_compile_nothing():
    features, comparisons, weights = problem()
    prepared = prepare(features)
    fit_heads(prepared, comparisons, EVERY, weights)
    before = heads._fit_blocks._cache_size()
    other = grid(l2=EVERY.l2 * 2, layer=1 - EVERY.layer, split=2 - EVERY.split)
    fit_heads(prepared, comparisons, other, weights[::-1], tolerance=1e-3)
    shifted = comparisons.replace(pairs=comparisons.pairs[::-1])
    fit_heads(prepare(features + 1), shifted, EVERY, weights)
    # Layers of 3 and 4 heads, or of 4 and 3, are two blocks of 4 either way.
    assert heads._fit_blocks._cache_size() == before


def test_texts_and_pairs_that_are_held_out_change_nothing():
    features, comparisons, weights = problem()
    pairs = np.asarray(comparisons.pairs) % 40  # texts 40 to 59 are in no pair
    weights = np.where(np.arange(NUM_PAIRS) < 150, 1.0, 0.0)[None]
    found, other_pairs, other_features = [], pairs.copy(), features.copy()
    other_pairs[150:] = other_pairs[150:, ::-1] // 2
    other_features[:, 40:] *= 3
    for some, texts in ((pairs, features), (other_pairs, other_features)):
        labels = JudgedTexts.of(some, comparisons.probs)
        fitted = fit_heads(
            prepare(texts), labels, HeadHyperparams(), weights, tolerance=1e-6
        )
        found.append(head_scores(fitted, features[0]))
    np.testing.assert_allclose(*found, atol=2e-3)
    assert np.ptp(found[0]) > 0.1


def test_ridge_regression_is_the_normal_equations_solution():
    features, _, _ = problem()
    rng = np.random.default_rng(1)
    ratings = 3 + features[1] @ rng.normal(size=WIDTH) / 5 + rng.normal(size=NUM_TEXTS)
    weights = rng.integers(0, 3, (1, NUM_TEXTS)).astype(np.float32)
    l2 = np.array([1e-3, 0.1, 10.0])
    some = ratings.copy()
    some[weights[0] == 0] = np.nan  # not known, and not used
    found = fit_heads(
        prepare(features),
        RatedTexts(some),
        grid(l2=l2, layer=[1, 1, 1], split=[0, 0, 0]),
        weights,
        tolerance=1e-6,
    )
    share = weights[0].astype(np.float64) / weights.sum()
    mean, center = share @ features[1].astype(np.float64), share @ ratings
    rows = features[1] - mean
    std = np.sqrt(share @ rows**2)
    rows /= std
    for i in range(3):
        bend = (rows.T * share) @ rows + l2[i] * np.eye(WIDTH)
        u = np.linalg.solve(bend, rows.T @ (share * (ratings - center)))
        one = jax.tree.map(lambda x, i=i: x[i], found)
        expected = rows @ u + center
        np.testing.assert_allclose(head_scores(one, features[1]), expected, atol=2e-3)


def test_a_feature_that_is_the_same_in_all_of_a_splits_texts_is_not_used():
    features, comparisons, _ = problem()
    pairs = np.asarray(comparisons.pairs) % 40
    features[:, :40, 2] = 7.0
    labels = JudgedTexts.of(pairs, comparisons.probs)
    found = fit_heads(prepare(features), labels, HeadHyperparams())
    assert found.kernel[2] == 0
    assert np.isfinite(found.kernel).all()


def test_separable_comparisons_and_a_tiny_penalty_have_a_finite_head():
    texts = np.arange(20.0)[None, :, None]
    pairs = np.array([(i, j) for i in range(20) for j in range(i)])
    found = fit_heads(prepare(texts), JudgedTexts.of(pairs), HeadHyperparams(l2=1e-6))
    assert np.isfinite(found.kernel).all()
    assert found.loss < 1e-2
    assert found.residual < 1e-3


def test_comparisons_that_cancel_have_a_head_of_zero():
    texts = np.array([[[0.0], [1.0]]])
    found = fit_heads(
        prepare(texts), JudgedTexts.of([[0, 1], [1, 0]]), HeadHyperparams()
    )
    np.testing.assert_array_equal(found.kernel, [0.0])
    assert found.residual == 0
    assert found.loss == pytest.approx(np.log(2))


def world(features, utilities, num_pairs, rng):
    """Pairs of different items, chosen first, as a Bradley-Terry person prefers."""
    pairs = rng.integers(0, len(features), (num_pairs, 2))
    pairs[:, 1] = (pairs[:, 0] + rng.integers(1, len(features), num_pairs)) % len(
        features
    )
    chance = 1 / (1 + np.exp(utilities[pairs[:, 1]] - utilities[pairs[:, 0]]))
    swapped = rng.random(num_pairs) > chance
    pairs[swapped] = pairs[swapped, ::-1]
    return pairs


def calibration_error(differences, num_bins=10):
    """Of both orders of each pair, by bins of equal width."""
    p = 1 / (1 + np.exp(-np.concatenate([differences, -differences])))
    right = np.repeat([1.0, 0.0], len(differences))
    error = 0.0
    for low in np.arange(num_bins) / num_bins:
        inside = (p >= low) & (p < low + 1 / num_bins)
        if inside.any():
            error += inside.mean() * abs(p[inside].mean() - right[inside].mean())
    return error


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["items", "linear"])
def test_known_utilities_are_recovered_from_noisy_comparisons(kind):
    """Items: correlation 0.992, calibration error 0.015; linear: 0.998 and 0.006."""
    rng = np.random.default_rng(0)
    if kind == "items":
        features = np.eye(50)
        utilities = rng.normal(size=50)
        utilities = (utilities - utilities.mean()) / utilities.std()
    else:
        features = rng.normal(size=(5_000, 16))
        utilities = features @ rng.normal(size=16)
        utilities /= utilities.std()
    pairs = world(features, utilities, 10_000, rng)
    test = world(features, utilities, 20_000, rng)
    found = fit_heads(
        prepare(features[None]), JudgedTexts.of(pairs), HeadHyperparams(l2=1e-5)
    )
    scores = np.asarray(head_scores(found, features), np.float64)
    assert np.corrcoef(scores, utilities)[0, 1] >= 0.99
    true = utilities[test[:, 0]] - utilities[test[:, 1]]
    differences = scores[test[:, 0]] - scores[test[:, 1]]
    best = 1 / (
        1 + np.exp(-np.abs(true))
    )  # the chance that the better one is preferred
    better = (differences > 0) == (true > 0)
    reached = np.where(better, best, 1 - best)
    assert reached.mean() >= 0.99 * best.mean()
    assert abs((differences > 0).mean() - best.mean()) <= 0.01
    assert calibration_error(differences) < 0.02


CONFIG = TransformerConfig(
    vocab_size=258,
    hidden_size=16,
    intermediate_size=24,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    max_length=32,
)
ENCODING = EncodingConfig(max_length=32, end_ids=(257,))
PAIRS = [("a" * (i % 5), chr(97 + i % 26) * (1 + i % 7)) for i in range(40)]


def scored_texts():
    module = RewardModel(CONFIG)
    row = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    variables = jax.jit(module.init)(jax.random.key(0), *row)
    rows = [row.ids for row in encode_pairs(ByteTokenizer(), PAIRS, ENCODING)]
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), 32), np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    features = frozen_features(module, variables, ids, lengths)
    pairs = np.random.default_rng(0).integers(0, len(rows), (100, 2))
    return module, variables, features, JudgedTexts.of(pairs)


@pytest.mark.slow
def test_an_exported_head_scores_texts_as_it_does_their_features(tmp_path):
    module, variables, features, comparisons = scored_texts()
    weights = np.random.default_rng(1).integers(0, 3, (3, 100))
    fitted = fit_heads(
        prepare(features),
        comparisons,
        grid(l2=[0.1, 0.1, 1.0], layer=[1, 1, 1], split=[0, 1, 2]),
        weights,
    )
    expected = np.asarray(head_scores(fitted, features[1]))
    ensemble = with_heads(module, variables, fitted, 2)
    detail = Scorer(*ensemble, ByteTokenizer(), ENCODING).detail(PAIRS)
    np.testing.assert_allclose(detail.members, expected.T, atol=1e-5)
    np.testing.assert_allclose(detail.scores, expected.mean(axis=0), atol=1e-5)
    assert expected.std(axis=1).min() > 0.05
    # Each is centred over the texts of the comparisons that it was fitted on.
    used = np.asarray(comparisons.pairs)
    means = [
        np.average(scores[used].mean(axis=1), weights=w)
        for scores, w in zip(expected, weights, strict=True)
    ]
    np.testing.assert_allclose(means, 0.0, atol=1e-5)

    one = jax.tree.map(lambda x: x[0], fitted)
    single = with_heads(module, variables, one, 2)
    scorer = Scorer(*single, ByteTokenizer(), ENCODING)
    np.testing.assert_allclose(scorer.score(PAIRS), expected[0], atol=1e-5)
    # transformers' folder has no bias.
    plain = with_heads(module, variables, one, 2, centred=False)
    save_reward_model(tmp_path, *plain)
    loaded = load_reward_model(tmp_path)
    scores = Scorer(*loaded, ByteTokenizer(), ENCODING).score(PAIRS)
    np.testing.assert_allclose(scores + one.bias, expected[0], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hyperparams": HeadHyperparams(l2=0.0)}, "l2 must lie in"),
        ({"hyperparams": HeadHyperparams(l2=np.nan)}, "l2 must lie in"),
        ({"hyperparams": HeadHyperparams(layer=2)}, r"layer .* in \[0, 1\]"),
        ({"hyperparams": HeadHyperparams(split=3)}, r"split .* in \[0, 2\]"),
        ({"labels": JudgedTexts.of([[0, 60]])}, r"in \[0, 59\]"),
        ({"labels": JudgedTexts.of([[0, 1]], [np.nan])}, "probs must lie"),
        ({"labels": JudgedTexts.of(np.zeros((0, 2)))}, "nothing to learn from"),
        ({"labels": RatedTexts(np.ones(3))}, "one for each of 60 texts"),
        ({"labels": RatedTexts(np.full(60, np.nan))}, "ratings must be finite"),
        ({"weights": np.ones((1, 3))}, r"\[S, 200\]"),
        ({"weights": -np.ones((1, 200))}, "at least 0"),
        ({"weights": np.zeros((1, 200))}, "split 0 has nothing"),
        ({"block_size": 0}, "block_size must be at least 1"),
    ],
)
def test_what_cannot_be_fitted_is_refused(changes, message):
    features, comparisons, weights = problem()
    if "labels" in changes:
        weights = None
    arguments = {
        "labels": comparisons, "hyperparams": HeadHyperparams(), "weights": weights,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        fit_heads(prepare(features), **arguments | changes)


def test_features_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"features\[None\]"):
        prepare(np.ones((3, 2)))
    with pytest.raises(ValueError, match="not finite"):
        prepare(np.full((1, 3, 2), np.inf))


@pytest.mark.slow
def test_the_shape_of_a_model_is_kept_but_for_its_blocks():
    module, variables, features, comparisons = scored_texts()
    fitted = fit_heads(prepare(features), comparisons, HeadHyperparams())
    shorter, _ = with_heads(module.clone(pad_id=7), variables, fitted, 1)
    assert shorter.pad_id == 7
    assert shorter.config == dataclasses.replace(CONFIG, num_layers=1)
