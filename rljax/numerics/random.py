"""Counter-based random numbers, cheap enough to fuse into an environment's step.

JAX's generators cost more than an environment's physics. Where much noise is needed, the
keys of steps come from them, and the numbers of all environments in a step from pcg4d, a
hash of four words to four in a few multiplications.

That a number does not depend on its batch holds for JAX's default generator, threefry. Of
"rbg" and "unsafe_rbg" `jax.vmap` draws others in a batch than alone, so that with them a
population's member is not the run alone.

References:
    Jarzynski & Olano (2020), "Hash functions for GPU rendering", Journal of Computer
    Graphics Techniques 9 (3), with the results of its TestU01 runs.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_key(x: Any) -> bool:
    """Whether it is an array of typed keys, traced or not."""
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def pcg4d(
    x: jax.Array, y: jax.Array, z: jax.Array, w: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Hashes four uint32 words, of any shapes that broadcast, to four."""
    x, y, z, w = (v * np.uint32(1664525) + np.uint32(1013904223) for v in (x, y, z, w))
    x, y, z, w = _mix(x, y, z, w)
    x, y, z, w = (v ^ (v >> np.uint32(16)) for v in (x, y, z, w))
    return _mix(x, y, z, w)


def bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random uint32 words; those of a row do not depend on how many rows there are.

    Args:
        key: consumed; a typed key.
        shape: of the result; its first axis is that of rows.
    """
    indices = jnp.arange(math.prod(shape[1:]), dtype=jnp.uint32)
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    row = jax.lax.broadcasted_iota(jnp.uint32, shape or (1,), 0)
    column = jnp.broadcast_to(indices.reshape(shape[1:]), row.shape)
    words, *_ = pcg4d(row, first, second, column)
    return words.reshape(shape)


def uniforms(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """float32 numbers in [0, 1), multiples of 2**-23, made of `bits`; consumes `key`."""
    return _to_unit_interval(bits(key, shape))


def normals(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """float32 standard normal numbers, at most 5.4 from 0; consumes `key`."""
    # In the middle of each of 2**23 equal intervals, none of them at infinity.
    middle = uniforms(key, shape) * 2 - np.float32(1 - 2**-23)
    return math.sqrt(2) * jax.lax.erf_inv(middle)


def gumbels(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """float32 standard Gumbel numbers; consumes `key`."""
    smallest = np.float32(2**-24)
    return -jnp.log(-jnp.log(jnp.maximum(uniforms(key, shape), smallest)))


def permutations(key: jax.Array, count: int, size: int) -> jax.Array:
    """`count` random orders of `size` indices: int32 `[count, size]`; consumes `key`."""
    low = (size - 1).bit_length()
    if low > 16:
        shuffle = functools.partial(jax.random.permutation, x=size)
        return jax.vmap(shuffle)(jax.random.split(key, count))
    # Random words with their index in the low bits: sorting one array of integers takes
    # a CPU a tenth of the time of sorting one by another. At least 16 bits are random.
    high = bits(key, (count, size)) >> low << low
    words = high | jnp.arange(size, dtype=jnp.uint32)[None]
    ordered = jax.lax.sort(words, dimension=1, is_stable=False)
    return (ordered & jnp.uint32((1 << low) - 1)).astype(jnp.int32)


def uniform(words: jax.Array, index: jax.Array, number: int) -> jax.Array:
    """Uniform numbers of the environments `index`, whatever others are in the batch.

    Args:
        words: uint32 `[2]`, random, others for every step.
        index: uint32 `[B]`, which environments.
        number: which of an environment's numbers in this step.

    Returns:
        float32 `[B]` in [0, 1), multiples of 2**-23.
    """
    hashed, *_ = pcg4d(index, words[0], words[1], jnp.uint32(number))
    return _to_unit_interval(hashed)


def _to_unit_interval(words: jax.Array) -> jax.Array:
    one_to_two = (words >> np.uint32(9)) | np.uint32(0x3F800000)
    return jax.lax.bitcast_convert_type(one_to_two, jnp.float32) - 1


def _mix(x, y, z, w):
    x = x + y * w
    y = y + z * x
    z = z + x * y
    w = w + y * z
    return x, y, z, w
