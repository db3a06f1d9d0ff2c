"""Scores of a reward model, or of an ensemble's members at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rljax.rlhf.models.reward_model import RewardModel


def member_axes(module: RewardModel, variables: Any) -> tuple[int, Any]:
    """Returns the number of an ensemble's members M, and which leaves are stacked.

    Members that share a trunk, say, have heads of their own: a leaf `[M, ...]` is one in
    which they differ. The axes are 0 or None for each leaf, as `jax.vmap` takes them; of
    a single model M is 0.

    Raises:
        ValueError: leaves are of unequally many members.
    """
    row = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    shapes = flatten_dict(jax.eval_shape(module.init, jax.random.key(0), *row))
    sizes, axes = {}, {}
    for path, leaf in flatten_dict(variables).items():
        stacked = path in shapes and np.ndim(leaf) == len(shapes[path].shape) + 1
        axes[path] = 0 if stacked else None
        if stacked:
            sizes["/".join(path)] = np.shape(leaf)[0]
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"an ensemble's leaves must be of as many members each, got {sizes}. Stack "
            f"the same members."
        )
    return max(sizes.values(), default=0), unflatten_dict(axes)


def scores_and_members(
    module: RewardModel, variables: Any
) -> tuple[int, Callable[..., tuple[jax.Array, jax.Array]]]:
    """Returns the number of members M, and a function of (variables, ids, lengths).

    It returns scores `[B]`, the members' means, and theirs, `[B, M]`; what the members
    share is computed once. Of a single model M is 0.
    """
    num_members, axes = member_axes(module, variables)
    score: Any = module.apply
    if num_members:
        score = jax.vmap(score, in_axes=(axes, None, None), out_axes=1)

    def scores(variables, ids, lengths):
        found = score(variables, ids, lengths)
        if num_members:
            return found.mean(axis=1), found
        return found, jnp.zeros((len(found), 0))

    return num_members, scores
