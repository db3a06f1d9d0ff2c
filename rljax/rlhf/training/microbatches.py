"""Gradients of a batch in parts: rows of like length together, each part cut to its own.

Rows are sorted by length, so that a microbatch of short ones does not pay for the long
ones' padding; the gradient is that of the whole batch, since sums add up exactly.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Params
from rljax.numerics.sharding import split_rows

Sums = dict[str, jax.Array]


def gradients(
    loss: Callable[[Params, Any], tuple[jax.Array, Sums]],
    params: Params,
    rows: Any,
    *,
    num_microbatches: int,
    lengths: tuple[int, ...],
) -> tuple[Params, Sums]:
    """Returns the gradient of a sum over rows, and other sums over them.

    Args:
        loss: `(params, rows) -> (sum, sums)`, sums over the rows that it is given.
        params: what the gradient is with respect to.
        rows: leaves `[B, ...]`, with `longest` and `cut` as in `rljax.rlhf.data.rows`.
        num_microbatches: parts that are computed one after another; divides B.
        lengths: tokens that a part may be cut to, ascending, the last enough for every
            row. Each is compiled.
    """
    parts, _ = parts_by_length(rows, num_microbatches)
    of_part = cut_to_fit(
        functools.partial(jax.grad(loss, has_aux=True), params), lengths
    )

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_part(part)), None

    first = jax.tree.map(lambda x: x[0], parts)
    if num_microbatches == 1:
        return of_part(first)
    shapes = jax.eval_shape(of_part, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, parts)[0]


def parts_by_length(rows: Any, num_parts: int) -> tuple[Any, jax.Array]:
    """Returns rows in equal parts, those of like length together, and in which order.

    Args:
        rows: leaves `[B, ...]`, with `longest`.
        num_parts: divides B.

    Returns:
        Leaves `[num_parts, B / num_parts, ...]`, of which devices share the rows of each
        part, and the rows' numbers `[B]`, the shortest first.
    """
    order = jnp.argsort(rows.longest)
    parts = jax.tree.map(lambda x: _in_parts(x[order], num_parts), rows)
    return split_rows(parts, axis=1), order


def cut_to_fit(
    function: Callable[[Any], Any], lengths: tuple[int, ...]
) -> Callable[[Any], Any]:
    """Returns a function of rows that are cut to the least of some lengths that fits.

    Args:
        function: `(rows) -> results`, of the same shapes whatever rows are cut to.
        lengths: ascending, the last enough for every row. Each is compiled.
    """

    def of_length(length: int, rows: Any) -> Any:
        return function(rows.cut(length))

    branches = [functools.partial(of_length, length) for length in lengths]

    def of_rows(rows: Any) -> Any:
        needed = jnp.searchsorted(jnp.array(lengths), rows.longest.max())
        return jax.lax.switch(needed, branches, rows)

    return of_rows


def usual_lengths(longest: int, least: int = 64) -> tuple[int, ...]:
    """Returns lengths to cut to: the longest, and halves of it down to some least.

    Example:
        >>> usual_lengths(300)
        (75, 150, 300)
    """
    lengths = [longest]
    while lengths[0] >= 2 * least:
        lengths.insert(0, -(-lengths[0] // 2))
    return tuple(lengths)


def _in_parts(x: jax.Array, num_parts: int) -> jax.Array:
    return x.reshape(num_parts, -1, *x.shape[1:])


def check_rows(rows: Any, batch_size: int, lengths: tuple[int, ...]) -> None:
    """Raises a ValueError if there are too few rows, or some that cannot be cut so."""
    longest = np.asarray(rows.longest)
    if len(longest) < batch_size:
        raise ValueError(
            f"batch_size must be at most the {len(longest)} rows there are, got "
            f"{batch_size}. Lower it, or give more data."
        )
    check_lengths(lengths, longest.max())
    if longest.min() < 1:
        raise ValueError(
            f"every row must have a token, but row {longest.argmin()} has none. Leave it "
            f"out."
        )


def check_lengths(lengths: tuple[int, ...], longest: int) -> None:
    """Raises a ValueError if rows of up to `longest` tokens cannot be cut to lengths."""
    if lengths and (lengths[-1] < longest or list(lengths) != sorted(lengths)):
        raise ValueError(
            f"lengths must ascend to at least the longest row's {longest} tokens, got "
            f"{lengths}. Use usual_lengths({longest})."
        )


def check_divides(config: Any) -> None:
    """Raises a ValueError if a batch cannot be cut into a configuration's microbatches."""
    if config.batch_size % config.num_microbatches:
        raise ValueError(
            f"num_microbatches must divide batch_size, got {config.num_microbatches} "
            f"and {config.batch_size}. Choose a divisor."
        )
