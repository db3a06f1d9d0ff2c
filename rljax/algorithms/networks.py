"""Flax networks for control: policies and value functions of a vector observation.

An actor-critic has three methods: `policy(observation)`, a distribution of
`rljax.algorithms.distributions`; `value(observation)`; and `__call__`, both at once. Learners call
the one they need, so a rollout never computes values.
"""

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.algorithms.distributions import Categorical, Normal
from rljax.numerics import random


def orthogonal(scale: float = 1.0) -> Callable[..., jax.Array]:
    """Initializer: a uniformly random (semi-)orthogonal `[inputs, outputs]` matrix.

    The orthogonal factor of a Gaussian matrix's polar decomposition, by Newton and
    Schulz's iteration. Flax's own initializer calls LAPACK, which deadlocks at random
    when several are vmapped in one program on a CPU.

    Args:
        scale: what every singular value is.

    References:
        Saxe et al. (2014), https://arxiv.org/abs/1312.6120; Higham (2008), Functions of
        Matrices, section 8.3.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
        if len(shape) != 2:
            raise ValueError(
                f"orthogonal makes matrices, got the shape {tuple(shape)}. Use another "
                f"initializer for arrays of another rank."
            )
        rows, columns = max(shape), min(shape)
        gaussian = random.normals(key, (rows, columns))
        # Singular values in (0, 1], from where the iteration takes each to 1.
        small = gaussian / jnp.linalg.norm(gaussian)
        product = functools.partial(jnp.matmul, precision="highest")
        identity = jnp.eye(columns)

        def off(q):
            return product(q.T, q) - identity

        def closer(carry):
            q, error = carry
            q = q - product(q, error) / 2
            return q, off(q)

        def far(carry):
            return jnp.abs(carry[1]).max() > 1e-4

        # Convergence is quadratic: one step more reaches what float32 can tell.
        q, error = jax.lax.while_loop(far, closer, (small, off(small)))
        q = (q - product(q, error) / 2).astype(dtype)
        return scale * (q if shape[0] == rows else q.T)

    return init


class MLP(nn.Module):
    """Dense layers with tanh between them.

    Attributes:
        hidden: widths of the hidden layers.
        outputs: width of the linear output layer.
        output_scale: scale of the output layer's orthogonal initialization.
    """

    hidden: tuple[int, ...]
    outputs: int
    output_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., D]` to `[..., outputs]`."""
        for width in self.hidden:
            x = nn.tanh(_dense(width, math.sqrt(2))(x))
        return _dense(self.outputs, self.output_scale)(x)


class ActorCritic(nn.Module):
    """Separate policy and value networks for discrete actions.

    Attributes:
        num_actions: number of actions A.
        hidden: widths of the hidden layers of either network.
    """

    num_actions: int
    hidden: tuple[int, ...] = (64, 64)

    def setup(self):
        """Makes both networks."""
        self.actor = MLP(self.hidden, self.num_actions, output_scale=0.01)
        self.critic = MLP(self.hidden, 1)

    def policy(self, observation: jax.Array) -> Categorical:
        """Action distribution for `[..., D]` observations."""
        return Categorical(self.actor(observation))

    def value(self, observation: jax.Array) -> jax.Array:
        """`[...]` values of `[..., D]` observations."""
        return self.critic(observation)[..., 0]

    def __call__(self, observation: jax.Array) -> tuple[Categorical, jax.Array]:
        """Policy and value of `[..., D]` observations."""
        return self.policy(observation), self.value(observation)


class NormalActorCritic(nn.Module):
    """Separate policy and value networks for continuous actions.

    Actions are drawn from a normal distribution, without bounds: an environment whose
    actions have some clips them in its `step`.

    Attributes:
        action_size: number of components D of an action.
        hidden: widths of the hidden layers of either network.
    """

    action_size: int
    hidden: tuple[int, ...] = (64, 64)

    def setup(self):
        """Makes both networks."""
        self.actor = MLP(self.hidden, self.action_size, output_scale=0.01)
        self.log_std = self.param("log_std", nn.initializers.zeros, (self.action_size,))
        self.critic = MLP(self.hidden, 1)

    def policy(self, observation: jax.Array) -> Normal:
        """Action distribution for `[..., D]` observations; its spread is learned."""
        mean = self.actor(observation)
        return Normal(mean, jnp.broadcast_to(self.log_std, mean.shape))

    def value(self, observation: jax.Array) -> jax.Array:
        """`[...]` values of `[..., D]` observations."""
        return self.critic(observation)[..., 0]

    def __call__(self, observation: jax.Array) -> tuple[Normal, jax.Array]:
        """Policy and value of `[..., D]` observations."""
        return self.policy(observation), self.value(observation)


def _dense(width: int, scale: float) -> nn.Dense:
    init = orthogonal(scale)
    return nn.Dense(width, kernel_init=init, dot_general=_product)


def _product(x, kernel, dimension_numbers, precision=None, **_):
    """The `dot_general` of `nn.Dense`, which contracts the last axis with the first."""
    del dimension_numbers, precision
    return _matmul(x, kernel)


@jax.custom_vjp
def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A product with a backward pass that CPUs are good at, too."""
    return x @ kernel


def _matmul_forward(x, kernel):
    return x @ kernel, (x, kernel)


def _matmul_backward(saved, gradient):
    x, kernel = saved
    rows, by_row = (a.reshape(-1, a.shape[-1]) for a in (x, gradient))

    def apart(rows, by_row):
        # XLA would fold the transposition into a product, for which it has no fast
        # kernel on a CPU: a fifth of the whole time of PPO.
        return jax.lax.optimization_barrier(rows.T) @ by_row

    def folded(rows, by_row):
        return rows.T @ by_row

    of_kernel = jax.lax.platform_dependent(rows, by_row, cpu=apart, default=folded)
    return gradient @ kernel.T, of_kernel


_matmul.defvjp(_matmul_forward, _matmul_backward)
