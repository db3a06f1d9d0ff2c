import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.algorithms.distributions import (
    Categorical,
    MultiCategorical,
    Normal,
    SquashedNormal,
)

few = settings(deadline=None, max_examples=20)
logits_of_4 = st.lists(st.floats(-30, 30), min_size=4, max_size=4).map(np.array)
vector_of_3 = st.lists(st.floats(-3, 3), min_size=3, max_size=3).map(np.array)
normals_of_3 = st.tuples(vector_of_3, vector_of_3)  # mean, log_std


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@few
@given(logits_of_4)
def test_categorical_log_prob_is_the_logarithm_of_softmax(logits):
    with jax.enable_x64(True):
        log_prob = jax.vmap(Categorical(jnp.array(logits)).log_prob)(jnp.arange(4))
    np.testing.assert_allclose(log_prob, np.log(softmax(logits)), rtol=1e-9, atol=1e-12)


@few
@given(logits_of_4)
def test_categorical_entropy_is_scipys(logits):
    with jax.enable_x64(True):
        entropy = Categorical(jnp.array(logits)).entropy()
    np.testing.assert_allclose(
        entropy, scipy.stats.entropy(softmax(logits)), rtol=1e-9, atol=1e-12
    )


@few
@given(logits_of_4, logits_of_4)
def test_categorical_kl_is_scipys(logits, other):
    with jax.enable_x64(True):
        kl = Categorical(jnp.array(logits)).kl(Categorical(jnp.array(other)))
    expected = scipy.stats.entropy(softmax(logits), softmax(other))
    np.testing.assert_allclose(kl, expected, rtol=1e-9, atol=1e-12)


@few
@given(normals_of_3, vector_of_3)
def test_normal_log_prob_is_scipys(normal, action):
    mean, log_std = normal
    with jax.enable_x64(True):
        found = Normal(*map(jnp.array, normal)).log_prob(jnp.array(action))
    expected = scipy.stats.norm.logpdf(action, mean, np.exp(log_std)).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@few
@given(normals_of_3)
def test_normal_entropy_is_scipys(normal):
    mean, log_std = normal
    with jax.enable_x64(True):
        entropy = Normal(*map(jnp.array, normal)).entropy()
    expected = scipy.stats.norm.entropy(mean, np.exp(log_std)).sum()
    np.testing.assert_allclose(entropy, expected, rtol=1e-9, atol=1e-12)


@few
@given(normals_of_3, normals_of_3)
def test_normal_kl_is_the_mean_log_ratio(normal, other):
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)  # exact for quadratics
    (mean, log_std), (other_mean, other_log_std) = normal, other
    x = mean + np.exp(log_std) * nodes[:, None]
    log_ratio = scipy.stats.norm.logpdf(x, mean, np.exp(log_std))
    log_ratio -= scipy.stats.norm.logpdf(x, other_mean, np.exp(other_log_std))
    expected = (weights @ log_ratio).sum() / weights.sum()
    with jax.enable_x64(True):
        kl = Normal(*map(jnp.array, normal)).kl(Normal(*map(jnp.array, other)))
    np.testing.assert_allclose(kl, expected, rtol=1e-9, atol=1e-9)


LOW, HIGH = -0.5, 2.0


def squashed(mean, log_std):
    """Of one component, float64; and its density on a fine grid of actions."""
    normal = Normal(jnp.float64([mean]), jnp.float64([log_std]))
    middle, half = (LOW + HIGH) / 2, (HIGH - LOW) / 2
    u = mean + np.exp(log_std) * np.linspace(-9, 9, 20_001)
    action = middle + half * np.tanh(u)
    density = scipy.stats.norm.pdf(u, mean, np.exp(log_std)) / (half / np.cosh(u) ** 2)
    return SquashedNormal(normal, (LOW,), (HIGH,)), action, density


def integral(values, action):
    return np.sum((values[1:] + values[:-1]) / 2 * np.diff(action))


@pytest.mark.some_cases(1)
@pytest.mark.parametrize(
    ("mean", "log_std"), [(0.0, 0.0), (0.7, -1.0), (-1.0, 0.2), (0.0, -3.0)]
)
def test_squashed_normals_are_those_of_the_integral(mean, log_std):
    with jax.enable_x64(True):
        one, action, density = squashed(mean, log_std)
        assert integral(density, action) == pytest.approx(1, abs=1e-4)
        share = (action - (LOW + HIGH) / 2) / ((HIGH - LOW) / 2)
        inside = np.abs(share) < 1 - 1e-6  # nearer to a bound float32 has no number
        found = jax.vmap(one.log_prob)(action[inside, None])
        np.testing.assert_allclose(found, np.log(density[inside]), rtol=1e-4, atol=1e-4)
        surprise = -density * np.log(np.maximum(density, 1e-300))
        wanted = integral(surprise, action)
        assert float(one.entropy()) == pytest.approx(wanted, abs=2e-3)
        other, _, _ = squashed(mean + 0.3, log_std + 0.1)
        ratio = np.log(density[inside]) - jax.vmap(other.log_prob)(action[inside, None])
        wanted = integral(density[inside] * np.asarray(ratio), action[inside])
        assert float(one.kl(other)) == pytest.approx(wanted, abs=2e-3)


def test_squashed_samples_have_its_density_and_keep_the_bounds(key):
    n = 20_000
    normal = Normal(jnp.full((n, 1), 0.5), jnp.zeros((n, 1)))
    sample = np.asarray(SquashedNormal(normal, (LOW,), (HIGH,)).sample(key))[:, 0]
    u = np.arctanh((sample - 0.75) / 1.25)
    assert scipy.stats.kstest(u - 0.5, "norm").pvalue > 1e-3
    wide = SquashedNormal(
        Normal(jnp.full((9, 1), 50.0), normal.log_std[:9]), (LOW,), (HIGH,)
    )
    np.testing.assert_array_equal(wide.mode(), np.float32(HIGH))
    assert np.isfinite(wide.log_prob(wide.mode())).all()


def test_several_choices_are_those_of_all_joint_actions():
    logits = jax.random.normal(jax.random.key(0), (2, 5))
    one, other = (MultiCategorical(x, (2, 3)) for x in logits)
    joint = jnp.array(list(itertools.product(range(2), range(3))))
    mine, theirs = (
        np.asarray(jax.vmap(x.log_prob)(joint), np.float64) for x in (one, other)
    )
    first, second = (
        softmax(np.asarray(logits[0, :2])),
        softmax(np.asarray(logits[0, 2:])),
    )
    np.testing.assert_allclose(np.exp(mine), np.outer(first, second).ravel(), rtol=1e-5)
    np.testing.assert_allclose(one.entropy(), -(np.exp(mine) * mine).sum(), rtol=1e-5)
    wanted = (np.exp(mine) * (mine - theirs)).sum()
    np.testing.assert_allclose(one.kl(other), wanted, rtol=1e-5)


def test_entropy_gives_the_losses_that_rlax_publishes():
    # rlax/_src/policy_gradients_test.py, EntropyLossTest.
    logits = jnp.array([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0], [-1.0, -2.0, -3.0]])
    weights = jnp.array([[-2.0, 2.0, 0.0], [-3.0, 1.0, -1.0]])
    entropy = Categorical(jnp.stack([logits, logits + 1])).entropy()
    loss = -jnp.mean(entropy * weights, axis=1)
    np.testing.assert_allclose(loss, [0.288693, 1.15422], atol=1e-4)


def test_categorical_samples_are_as_frequent_as_probable(key):
    n, prob = 20_000, np.array([0.05, 0.15, 0.8, 0.0])
    logits = jnp.broadcast_to(jnp.array([*np.log(prob[:3]), -jnp.inf]), (n, 4))
    sample = Categorical(logits).sample(key)
    assert sample.dtype == jnp.int32
    share = np.bincount(sample, minlength=4) / n
    np.testing.assert_array_less(
        np.abs(share - prob), 5 * np.sqrt(prob * (1 - prob) / n) + 1e-9
    )


def test_normal_samples_have_its_moments(key):
    n, mean, std = 20_000, np.array([1.0, -2.0]), np.array([0.5, 3.0])
    normal = Normal(
        jnp.broadcast_to(jnp.array(mean), (n, 2)),
        jnp.broadcast_to(jnp.log(jnp.array(std)), (n, 2)),
    )
    z = (np.asarray(normal.sample(key)) - mean) / std
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=5 / np.sqrt(n))
    np.testing.assert_allclose((z**2).mean(axis=0), 1, atol=5 * np.sqrt(2 / n))
    np.testing.assert_allclose((z[:, 0] * z[:, 1]).mean(), 0, atol=5 / np.sqrt(n))


def test_modes_are_the_likeliest_actions():
    logits = jnp.array([[0.0, 2.0, 1.0], [3.0, 3.0, -jnp.inf]])
    assert Categorical(logits).mode().tolist() == [1, 0]
    mean = jnp.array([1.0, -2.0])
    np.testing.assert_array_equal(Normal(mean, jnp.zeros(2)).mode(), mean)


def possible_and_impossible():
    """Two distributions over four actions, the second and last impossible in both."""
    p = jnp.array([1.0, -jnp.inf, 2.0, -jnp.inf])
    q = jnp.array([0.0, -jnp.inf, -1.0, -jnp.inf])
    return p, q


@pytest.mark.parametrize("name", ["entropy", "kl", "log_prob"])
def test_impossible_actions_leave_values_and_gradients_those_of_the_rest(name):
    p, q = possible_and_impossible()
    rest = np.array([0, 2])
    of = {
        "entropy": lambda p, q: Categorical(p).entropy(),
        "kl": lambda p, q: Categorical(p).kl(Categorical(q)),
        "log_prob": lambda p, q: Categorical(p).log_prob(jnp.int32(0)),
    }[name]
    run = jax.jit(jax.value_and_grad(of, argnums=(0, 1)))
    value, gradient = run(p, q)
    wanted, wanted_gradient = run(p[rest], q[rest])
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    for g, w in zip(gradient, wanted_gradient, strict=True):
        np.testing.assert_allclose(g[rest], w, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(np.delete(g, rest), 0)


def test_kl_is_infinite_where_the_other_rules_out_what_this_one_does():
    p, q = Categorical(jnp.zeros(2)), Categorical(jnp.array([0.0, -jnp.inf]))
    assert p.kl(q) == jnp.inf
    np.testing.assert_allclose(q.kl(p), np.log(2), rtol=1e-6)


def test_the_log_probability_of_an_impossible_action_is_minus_infinity():
    p, _ = possible_and_impossible()
    assert Categorical(p).log_prob(jnp.int32(1)) == -jnp.inf


def test_leading_axes_are_batch_axes(key):
    def everything(logits, action):
        p = Categorical(logits)
        return p.log_prob(action), p.entropy(), p.kl(Categorical(-logits)), p.mode()

    logits, action = jax.random.normal(key, (2, 3, 4)), jnp.arange(6).reshape(2, 3) % 4
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        jax.jit(everything)(logits, action),
        jax.jit(jax.vmap(jax.vmap(everything)))(logits, action),
    )
