import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.training.losses import (
    bradley_terry_loss,
    completion_loss,
    plackett_luce_loss,
    preference_loss,
    regression_loss,
)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_bradley_terry_is_the_sum_in_the_papers():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20, 2)) * 3
    margins, probs = rng.uniform(0, 2, 20), rng.uniform(0, 1, 20)
    found = bradley_terry_loss(
        jnp.float32(scores),
        jnp.float32(margins),
        jnp.float32(probs),
        label_smoothing=0.1,
        centring=0.01,
    )
    for i, (chosen, rejected) in enumerate(scores):
        d = chosen - rejected - margins[i]
        p = 0.9 * probs[i] + 0.1 * (1 - probs[i])
        want = -p * math.log(sigmoid(d)) - (1 - p) * math.log(sigmoid(-d))
        want += 0.01 * (chosen + rejected) ** 2
        assert float(found[i]) == pytest.approx(want, rel=1e-5)


def test_bradley_terry_stays_finite_and_right_far_from_zero():
    scores = jnp.array([[-500.0, 500.0], [500.0, -500.0]])
    assert bradley_terry_loss(scores).tolist() == [1000.0, 0.0]
    gradient = jax.grad(lambda s: bradley_terry_loss(s).sum())(scores)
    np.testing.assert_array_equal(gradient, [[-1.0, 1.0], [0.0, 0.0]])


def test_plackett_luce_probabilities_of_all_orders_add_up_to_one():
    scores = np.random.default_rng(1).normal(size=4).astype(np.float32)
    total = 0.0
    for order in itertools.permutations(range(4)):
        ranked = jnp.array(scores[list(order)])[None]
        loss = float(plackett_luce_loss(ranked, jnp.ones((1, 4), bool))[0])
        want, left = 1.0, [math.exp(scores[i]) for i in order]
        while left:
            want *= left[0] / sum(left)
            left = left[1:]
        assert math.exp(-loss) == pytest.approx(want, rel=1e-5)
        total += math.exp(-loss)
    assert total == pytest.approx(1.0, rel=1e-5)


def test_of_two_plackett_luce_is_bradley_terry_and_absent_ones_do_not_count():
    scores = jnp.array([[0.3, -1.2, 7.0, 7.0], [2.0, 2.5, -3.0, 0.0]])
    present = jnp.array([[True, True, False, False]] * 2)
    value, gradient = jax.value_and_grad(
        lambda s: plackett_luce_loss(s, present).sum()
    )(scores)
    assert float(value) == pytest.approx(
        float(bradley_terry_loss(scores[:, :2]).sum()), rel=1e-6
    )
    assert not gradient[:, 2:].any()
    assert jnp.isfinite(gradient).all()


def test_a_pair_among_rankings_keeps_its_margin_and_probability():
    scores = jnp.array([[0.3, -1.2, 0.0], [2.0, 0.5, -3.0]])
    present = jnp.array([[True, True, False], [True, True, True]])
    margins, probs = jnp.array([0.5, 0.0]), jnp.array([0.8, 1.0])
    found = preference_loss(scores, present, margins, probs, label_smoothing=0.1)
    pair = bradley_terry_loss(
        scores[:1, :2], margins[:1], probs[:1], label_smoothing=0.1
    )
    ranking = plackett_luce_loss(scores[1:], present[1:])
    np.testing.assert_allclose(found, jnp.concatenate([pair, ranking]), rtol=1e-6)


def test_the_other_losses():
    squared = regression_loss(jnp.array([1.0, 3.0]), jnp.array([0.5, 5.0]))
    assert squared.tolist() == [0.25, 4.0]
    log_probs = jnp.array([[-1.0, -2.0, -4.0]])
    learned = jnp.array([[False, True, True]])
    assert completion_loss(log_probs, learned).tolist() == [6.0]
