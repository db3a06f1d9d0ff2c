import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from rljax.algorithms.networks import MLP, ActorCritic, NormalActorCritic, orthogonal
from rljax.numerics import random

DISCRETE = ActorCritic(3, hidden=(8,))
NORMAL = NormalActorCritic(3, hidden=(8,))
SHAPES = [(64, 4), (4, 64), (64, 64), (5, 1)]


def name(module):
    return type(module).__name__


@functools.cache
def params(network):
    return jax.jit(network.init)(jax.random.key(0), jnp.zeros(4))


def observations():
    return jax.random.normal(jax.random.key(1), (99, 4))


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_has_every_singular_value_at_its_scale(shape, key):
    w = jax.jit(orthogonal(1.5), static_argnums=1)(key, shape)
    tall = w if shape[0] >= shape[1] else w.T
    identity = np.eye(min(shape))
    assert w.shape == shape
    np.testing.assert_allclose(tall.T @ tall, 1.5**2 * identity, atol=1e-5)


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_is_the_polar_factor_of_a_gaussian(shape):
    gaussian = random.normals(jax.random.key(1), (max(shape), min(shape)))
    factor, _ = scipy.linalg.polar(np.asarray(gaussian, np.float64))
    found = orthogonal()(jax.random.key(1), shape)
    expected = factor if shape[0] >= shape[1] else factor.T
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_orthogonal_converges_from_a_matrix_that_is_almost_singular(monkeypatch):
    almost = jnp.eye(8).at[7, 7].set(1e-7)
    monkeypatch.setattr(random, "normals", lambda key, shape: almost)
    found = orthogonal()(jax.random.key(0), (8, 8))
    np.testing.assert_allclose(found, np.eye(8), atol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (3, 3, 8)])
def test_orthogonal_makes_only_matrices(shape, key):
    with pytest.raises(ValueError, match=r"got the shape \(3,.*another initializer"):
        orthogonal()(key, shape)


def calls_lapack(module, key):
    population = jax.jit(jax.vmap(lambda key: module.init(key, jnp.zeros(4))))
    program = population.lower(jax.random.split(key, 3)).compile().as_text()
    return 'custom_call_target="lapack' in program


def test_a_population_of_networks_is_made_without_lapack(key):
    assert not calls_lapack(DISCRETE, key)


def test_flaxs_own_orthogonal_calls_lapack(key):
    dense = nn.Dense(8, kernel_init=nn.initializers.orthogonal())
    assert calls_lapack(dense, key)  # so the test above can fail


@pytest.mark.parametrize("batch", [(), (7,), (5, 7)])
@pytest.mark.parametrize("network", [DISCRETE, NORMAL], ids=name)
def test_an_actor_critic_keeps_the_leading_axes(network, batch):
    observation = jax.ShapeDtypeStruct((*batch, 4), jnp.float32)
    policy, value = jax.eval_shape(network.apply, params(network), observation)
    assert {x.shape for x in jax.tree.leaves(policy)} == {(*batch, 3)}
    assert value.shape == batch


@pytest.mark.parametrize("network", [DISCRETE, NORMAL], ids=name)
def test_policy_and_value_are_the_halves_of_a_call(network):
    call, policy, value = (
        network.apply(params(network), observations(), method=method)
        for method in ("__call__", "policy", "value")
    )
    jax.tree.map(np.testing.assert_array_equal, call, (policy, value))


@pytest.mark.parametrize("network", [DISCRETE, NORMAL], ids=name)
def test_policy_and_value_share_no_parameters(network):
    def value(params):
        return network.apply(params, observations(), method="value").sum()

    gradient = jax.jit(jax.grad(value))(params(network))["params"]
    critic = gradient.pop("critic")
    assert all(jnp.any(g) for g in jax.tree.leaves(critic))
    assert not any(jnp.any(g) for g in jax.tree.leaves(gradient))


def test_a_new_policy_is_nearly_uniform():
    policy, _ = DISCRETE.apply(params(DISCRETE), observations())
    np.testing.assert_allclose(jax.nn.softmax(policy.logits), 1 / 3, atol=0.02)
    assert jnp.ptp(policy.logits) > 0


def test_a_new_normal_policy_is_nearly_standard():
    policy, _ = NORMAL.apply(params(NORMAL), observations())
    np.testing.assert_allclose(policy.mean, 0, atol=0.1)
    assert jnp.ptp(policy.mean) > 0
    np.testing.assert_array_equal(policy.log_std, 0)


def test_mlp_has_scaled_orthogonal_kernels_and_no_bias(key):
    mlp = MLP((8,), 2, output_scale=0.5)
    layers = jax.jit(mlp.init)(key, jnp.ones(4))["params"]
    for layer, scale in (("Dense_0", np.sqrt(2)), ("Dense_1", 0.5)):
        singular = np.linalg.svd(layers[layer]["kernel"], compute_uv=False)
        np.testing.assert_allclose(singular, scale, rtol=1e-5)
        np.testing.assert_array_equal(layers[layer]["bias"], 0)
