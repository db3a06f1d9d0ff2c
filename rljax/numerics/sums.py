"""Sums of very many terms: what rounding drops is carried along."""

import jax
import jax.numpy as jnp


def add_compensated(
    total: jax.Array, lost: jax.Array, term: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Adds a term to a running sum, and to what its rounding has lost so far.

    A float32 sum of ones stops at 2**24; this one is exact to its last bit for 2**40 terms
    and more, whatever their order (Kahan, https://doi.org/10.1145/363707.363723). An
    infinite sum stays infinite.

    Args:
        total: the sum until now; zeros at first.
        lost: what it is too small by, up to sign; zeros at first.
        term: what comes to it.

    Returns:
        Both afterwards.
    """
    term = term - lost
    after = total + term
    return after, jnp.where(jnp.isfinite(after), (after - total) - term, 0)


def add_up_to_largest(count: jax.Array, more: jax.Array | int) -> jax.Array:
    """`count + more`, int32 and not negative; 2**31 - 1 where it would be larger."""
    return jnp.minimum(count, jnp.iinfo(jnp.int32).max - more) + more
