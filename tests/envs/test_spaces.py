import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.envs.spaces import Box, Discrete

INF = np.inf
SPACES = [
    Discrete(1),
    Discrete(5),
    Box(-1.0, 2.0, ()),
    Box(np.array([-1.0, 10.0]), np.array([1.0, 11.0]), (2,)),
    Box(-INF, INF, (2, 3)),
    Box(np.array([3.0, -INF]), np.array([INF, -3.0]), (2,)),
]


@pytest.mark.some_cases(2)
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_samples_lie_in_the_space(space, key):
    @jax.jit
    def draw(key):
        samples = jax.vmap(space.sample)(jax.random.split(key, 1000))
        return samples, jax.vmap(space.contains)(samples).all()

    samples, inside = draw(key)
    assert inside
    assert samples.shape == (1000, *space.shape)
    assert samples.dtype == space.dtype
    assert np.isfinite(samples).all()


def test_discrete_samples_reach_every_element_alike(key):
    samples = jax.jit(jax.vmap(Discrete(4).sample))(jax.random.split(key, 4000))
    count = np.bincount(samples, minlength=4)
    np.testing.assert_allclose(count, 1000, atol=5 * np.sqrt(4000 * 0.25 * 0.75))


def test_bounded_samples_are_uniform(key):
    samples = jax.jit(jax.vmap(Box(-1.0, 3.0, ()).sample))(jax.random.split(key, 4000))
    count, _ = np.histogram(samples, bins=4, range=(-1, 3))
    np.testing.assert_allclose(count, 1000, atol=5 * np.sqrt(4000 * 0.25 * 0.75))


@pytest.mark.parametrize("x", [0, 4, np.int32(2), np.uint8(3)])
def test_discrete_contains_its_integers(x):
    assert Discrete(5).contains(x)


@pytest.mark.parametrize("x", [-1, 5, 2.0, True, np.zeros(1, np.int32)])
def test_discrete_rejects_what_is_not_one_of_its_integers(x):
    assert not Discrete(5).contains(x)


@pytest.mark.parametrize("x", [[-1, 2], [0, 0.5], [1, INF]])
def test_box_contains_its_bounds_and_what_lies_between(x):
    space = Box(np.array([-1, 0]), np.array([1, INF]), (2,))
    assert space.contains(np.float32(x))


@pytest.mark.parametrize(
    "x",
    [
        np.float32([-1.01, 0]),
        np.float32([0, -0.01]),
        np.float32([0, np.nan]),
        np.float32([0]),
        np.float32(0),
        np.zeros((1, 2), np.float32),
        np.zeros(2, np.int32),
        np.zeros(2, np.float16),
    ],
    ids=repr,
)
def test_box_rejects_another_range_shape_or_dtype(x):
    assert not Box(np.array([-1, 0]), np.array([1, INF]), (2,)).contains(x)


def test_bounds_may_be_traced():
    inside = jax.jit(lambda high, x: Box(0.0, high, ()).contains(x))
    assert inside(2.0, jnp.float32(1.5))
    assert not inside(1.0, jnp.float32(1.5))


@pytest.mark.parametrize("n", [0, -3])
def test_discrete_needs_an_element(n):
    with pytest.raises(ValueError, match=rf"got n={n}\. Use n >= 1"):
        Discrete(n)
