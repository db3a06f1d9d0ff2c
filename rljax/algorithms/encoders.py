"""Observations of any space as the vectors that the stock networks take.

An encoder is a part of a network's static configuration: `make_network` chooses it from
the observation space, whose shapes say which axes of an observation are the batch's.
"""

import dataclasses
import math
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.spaces import Box, Discrete, MultiDiscrete, is_space


@dataclasses.dataclass(frozen=True)
class Flatten:
    """A pytree of spaces as one vector: numbers in a row, discrete choices one-hot.

    Attributes:
        structure: of the space.
        parts: for each of its spaces the shape, and the choices of each component, if
            they are discrete.
    """

    structure: Any
    parts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    def __call__(self, observation: Any) -> jax.Array:
        """Observations, leaves `[..., *shape]`, as float32 `[..., D]`."""
        leaves = self.structure.flatten_up_to(observation)
        vectors = []
        for x, (shape, choices) in zip(leaves, self.parts, strict=True):
            batch = jnp.shape(x)[: jnp.ndim(x) - len(shape)]
            row = jnp.reshape(x, (*batch, math.prod(shape)))
            if choices:
                columns = zip(jnp.moveaxis(row, -1, 0), choices, strict=True)
                vectors += [jax.nn.one_hot(column, n) for column, n in columns]
            else:
                vectors.append(row.astype(jnp.float32))
        return jnp.concatenate(vectors, axis=-1)


@dataclasses.dataclass(frozen=True)
class Convolve:
    """Images `[..., H, W, C]` as vectors, by a small convolutional network.

    Attributes:
        features: channels of the layers; each halves height and width.
        width: of the dense layer that follows.
        scale: pixels are divided by this.
    """

    features: tuple[int, ...] = (16, 32, 32)
    width: int = 128
    scale: float = 1.0

    def __call__(self, observation: jax.Array) -> jax.Array:
        """float32 `[..., width]`; to be called within a network's compact method."""
        *batch, height, width, channels = observation.shape
        x = observation.reshape(-1, height, width, channels)
        x = x.astype(jnp.float32) / self.scale
        for features in self.features:
            x = nn.relu(nn.Conv(features, (3, 3), strides=(2, 2))(x))
        x = nn.tanh(nn.Dense(self.width)(x.reshape(len(x), -1)))
        return x.reshape(*batch, self.width)


Encoder: TypeAlias = Flatten | Convolve | None


def make_encoder(space: Any) -> Encoder:
    """The encoder of an observation space; None where observations are vectors.

    Raises:
        ValueError: a part of it is no space of `rljax.envs.spaces`.
    """
    leaves, structure = jax.tree.flatten(space, is_leaf=is_space)
    parts = []
    for part in leaves:
        if not isinstance(part, Box | Discrete | MultiDiscrete):
            raise ValueError(
                f"the stock networks take observations of Box, Discrete, MultiDiscrete, "
                f"and dicts and tuples of them, got {part}. Use one of these, or a network "
                f"of your own."
            )
        choices: tuple[int, ...] = ()
        if isinstance(part, Discrete):
            choices = (part.n,)
        elif isinstance(part, MultiDiscrete):
            choices = part.nvec
        parts.append((tuple(part.shape), choices))
    one = leaves[0] if jax.tree_util.treedef_is_leaf(structure) else None
    if isinstance(one, Box) and len(one.shape) == 3:
        return Convolve(scale=255.0 if one.dtype == np.uint8 else 1.0)
    if isinstance(one, Box) and len(one.shape) == 1:
        return None
    return Flatten(structure, tuple(parts))
