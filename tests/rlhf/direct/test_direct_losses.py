"""Losses of direct alignment against their formulas, written as loops in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.data.rows import LabelledCompletions, Rankings
from rljax.rlhf.direct.direct_alignment import DirectHyperparams
from rljax.rlhf.direct.direct_losses import (
    hinge_loss,
    ipo_loss,
    kto_loss,
    label_losses,
    ranking_losses,
    robust_probs,
)

RNG = np.random.default_rng(0)
SIZE = 12
STARTS = RNG.integers(0, 4, (SIZE, 2))
LENGTHS = STARTS + RNG.integers(2, 9, (SIZE, 2))
COUNTS = LENGTHS - np.maximum(STARTS, 1)
LOG_PROBS = -RNG.uniform(0.2, 3, (SIZE, 2)) * COUNTS
REFERENCE = LOG_PROBS + RNG.normal(size=(SIZE, 2))
PROBS = RNG.uniform(0, 1, SIZE)
MARGINS = RNG.uniform(0, 1, SIZE)
NUMBERS = DirectHyperparams(
    beta=0.7,
    label_smoothing=0.2,
    gamma=0.3,
    desirable_weight=1.3,
    undesirable_weight=0.6,
)
LOSSES = ("dpo", "robust_dpo", "hinge", "ipo_sum", "ipo_mean", "simpo", "orpo")


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def rows(margins):
    made = Rankings.of(np.zeros((SIZE, 2, 12)), LENGTHS, margins, PROBS, STARTS)
    return made.replace(reference=jnp.float32(REFERENCE))


def by_loops(loss, log_probs, margins, probs=PROBS):
    """The losses of pairs, as the papers have them."""
    beta, e, found = NUMBERS.beta, NUMBERS.label_smoothing, []
    for i in range(SIZE):
        (chosen, rejected), (m, n) = log_probs[i], COUNTS[i]
        l, k = chosen - REFERENCE[i, 0], rejected - REFERENCE[i, 1]  # noqa: E741
        h = beta * (l - k) - margins[i]
        p = probs[i] * (1 - e) + (1 - probs[i]) * e

        def mixed(f, h=h, p=p):
            return p * f(h) + (1 - p) * f(-h)

        if loss == "dpo":
            found.append(mixed(lambda h: -math.log(sigmoid(h))))
        elif loss == "robust_dpo":

            def unbiased(h):
                right, wrong = -math.log(sigmoid(h)), -math.log(sigmoid(-h))
                return ((1 - e) * right - e * wrong) / (1 - 2 * e)

            found.append(probs[i] * unbiased(h) + (1 - probs[i]) * unbiased(-h))
        elif loss == "hinge":
            found.append(mixed(lambda h: max(0.0, 1 - h)))
        elif loss == "ipo_sum":
            found.append(mixed(lambda d: (d - 1 / (2 * beta)) ** 2, l - k))
        elif loss == "ipo_mean":
            found.append(mixed(lambda d: (d - 1 / (2 * beta)) ** 2, l / m - k / n))
        elif loss == "simpo":
            d = beta * (chosen / m - rejected / n) - NUMBERS.gamma - margins[i]
            found.append(mixed(lambda d: -math.log(sigmoid(d)), d))
        else:
            odds = [math.exp(x) / (1 - math.exp(x)) for x in (chosen / m, rejected / n)]
            d = math.log(odds[0] / odds[1])
            learned = p * chosen / m + (1 - p) * rejected / n
            found.append(beta * mixed(lambda d: -math.log(sigmoid(d)), d) - learned)
    return np.array(found)


def slopes(f, x, step=1e-6):
    """The gradient of a sum of elementwise losses, by differences."""
    found = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place], down[place] = x[place] + step, x[place] - step
        found[place] = (f(up).sum() - f(down).sum()) / (2 * step)
    return found


@pytest.mark.some_cases(3)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_pairs_and_their_gradients_are_the_papers(loss):
    margins = (
        MARGINS if loss in ("dpo", "robust_dpo", "hinge", "simpo") else 0 * MARGINS
    )

    def total(log_probs):
        losses, means = ranking_losses(loss, log_probs, rows(margins), NUMBERS)
        return losses.sum(), (losses, means)

    gradient, (losses, means) = jax.grad(total, has_aux=True)(jnp.float32(LOG_PROBS))
    np.testing.assert_allclose(losses, by_loops(loss, LOG_PROBS, margins), rtol=2e-5)
    want = slopes(lambda x: by_loops(loss, x, margins), LOG_PROBS)
    np.testing.assert_allclose(gradient, want, rtol=2e-4, atol=1e-5)
    ratios = LOG_PROBS - (REFERENCE if loss not in ("simpo", "orpo") else 0)
    if loss in ("simpo", "orpo", "ipo_mean"):
        ratios = ratios / COUNTS
    chosen, rejected = (NUMBERS.beta * ratios).T
    assert float(means["chosen_reward"].value) == pytest.approx(chosen.mean(), rel=1e-5)
    assert float(means["margin"].value) == pytest.approx(
        (chosen - rejected).mean(), rel=1e-4
    )
    assert float(means["accuracy"].value) == pytest.approx((chosen > rejected).mean())


def test_losses_of_labels_and_their_gradients_are_the_papers():
    labels, kl = RNG.uniform(size=SIZE) < 0.4, 0.3
    made = LabelledCompletions(
        *map(jnp.int32, (np.zeros((SIZE, 2, 12)), LENGTHS, STARTS)), jnp.array(labels)
    ).replace(reference=jnp.float32(REFERENCE))

    def by_loops(log_probs):
        found = []
        for i in range(SIZE):
            ratio = log_probs[i] - REFERENCE[i, 0]
            if labels[i]:
                found.append(1.3 * (1 - sigmoid(0.7 * (ratio - kl))))
            else:
                found.append(0.6 * (1 - sigmoid(0.7 * (kl - ratio))))
        return np.array(found)

    def total(log_probs, kl):
        losses, means = label_losses(log_probs, made, NUMBERS, kl)
        return losses.sum(), (losses, means)

    (gradient, of_kl), (losses, means) = jax.grad(total, (0, 1), has_aux=True)(
        jnp.float32(LOG_PROBS[:, 0]), jnp.float32(kl)
    )
    np.testing.assert_allclose(losses, by_loops(LOG_PROBS[:, 0]), rtol=2e-5)
    np.testing.assert_allclose(
        gradient, slopes(by_loops, LOG_PROBS[:, 0]), rtol=2e-4, atol=1e-6
    )
    assert of_kl == 0
    ratios = LOG_PROBS[:, 0] - REFERENCE[:, 0]
    for name, which in (("chosen", labels), ("rejected", ~labels)):
        assert float(means[f"{name}_reward"].weight) == which.sum()
        assert float(means[f"{name}_reward"].value) == pytest.approx(
            0.7 * ratios[which].mean(), rel=1e-5
        )
    right = (ratios > kl) == labels
    assert float(means["accuracy"].value) == pytest.approx(right.mean())


@pytest.mark.slow
def test_where_the_policy_is_the_reference():
    """TRL 1.16 gives the same numbers."""
    zero, sure = (
        jnp.zeros((1, 2)),
        Rankings.of(
            np.zeros((1, 2, 4)), np.full((1, 2), 4), starts=np.ones((1, 2))
        ).replace(reference=jnp.zeros((1, 2))),
    )
    want = {"dpo": math.log(2), "ipo_sum": 25.0, "ipo_mean": 25.0, "hinge": 1.0}
    for loss, value in want.items():
        losses, means = ranking_losses(loss, zero, sure, DirectHyperparams())
        assert float(losses[0]) == pytest.approx(value, rel=1e-6)
        assert float(means["accuracy"].value) == 0.5
    assert float(kto_loss(jnp.zeros(1), jnp.array([True]), 0.0, beta=0.1)[0]) == 0.5


def test_rankings_have_plackett_and_luces_loss():
    lengths = np.array([[4, 4, 4], [4, 4, 0]])
    reference = RNG.normal(size=(2, 3))
    made = Rankings.of(np.zeros((2, 3, 4)), lengths, starts=np.ones((2, 3)))
    made = made.replace(reference=jnp.float32(reference))
    log_probs = RNG.normal(size=(2, 3))
    losses, _ = ranking_losses("dpo", jnp.float32(log_probs), made, NUMBERS)
    ranking, pair = 0.7 * (log_probs - reference)
    want = 0.0
    for k in range(3):
        want -= math.log(math.exp(ranking[k]) / np.exp(ranking[k:]).sum())
    assert float(losses[0]) == pytest.approx(want, rel=1e-5)
    # A pair among them is what it is elsewhere, with its smoothing.
    chosen = 1 / (1 + math.exp(pair[1] - pair[0]))
    e = NUMBERS.label_smoothing
    want = -(1 - e) * math.log(chosen) - e * math.log(1 - chosen)
    assert float(losses[1]) == pytest.approx(want, rel=1e-5)


def test_robust_losses_are_unbiased_under_flips():
    ratios = jnp.float32(RNG.normal(size=(50, 2)))
    e = 0.3
    flipped = ratios[:, ::-1]
    from rljax.rlhf.training.losses import bradley_terry_loss

    probs = robust_probs(1.0, e)
    mean = (1 - e) * bradley_terry_loss(ratios, probs=probs)
    mean += e * bradley_terry_loss(flipped, probs=probs)
    np.testing.assert_allclose(mean, bradley_terry_loss(ratios), rtol=1e-4)


@pytest.mark.slow
def test_losses_far_from_zero_are_finite():
    far = jnp.array([[-500.0, 0.0], [0.0, -500.0], [-1e-9, -1e-9]])
    made = Rankings.of(np.zeros((3, 2, 4)), np.full((3, 2), 4), starts=np.ones((3, 2)))
    made = made.replace(reference=jnp.zeros((3, 2)))
    for loss in LOSSES:

        def total(x, loss=loss):
            return ranking_losses(loss, x, made, DirectHyperparams())[0].sum()

        value, gradient = jax.value_and_grad(total)(far)
        assert jnp.isfinite(value)
        assert jnp.isfinite(gradient).all()


def test_single_losses_of_batches_of_any_shape():
    both = jnp.float32(RNG.normal(size=(2, 3, 2)))
    assert hinge_loss(both).shape == (2, 3)
    assert ipo_loss(both, 0.1).shape == (2, 3)
