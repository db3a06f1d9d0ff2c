"""Whether parameters are a model's, found before anything is computed with them."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from rljax.base import Params
from rljax.rlhf.models.transformer import Transformer


def check_language_model(module: Transformer, params: Any) -> None:
    """Raises a ValueError if parameters are not those of a language model.

    Args:
        module: the model.
        params: what its variables have under "params"; shapes are enough.
    """
    check_params(params, _shapes(module))


@functools.cache  # `train` checks at every call, and tracing takes a tenth of a second
def _shapes(module: Transformer) -> Params:
    init = functools.partial(module.init, method="logits")
    first = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(init, jax.random.key(0), first)["params"]


def check_params(params: Any, like: Params, *, whole: bool = True) -> None:
    """Raises a ValueError if parameters have not the names and shapes of others.

    Args:
        params: the parameters.
        like: the others; shapes are enough.
        whole: whether none may be missing.
    """
    if not isinstance(params, Mapping):
        raise ValueError(
            f'params must be what a model\'s variables have under "params", got '
            f"{type(params).__name__}. Use load_language_model, say."
        )
    found, wanted = flatten_dict(params, sep="/"), flatten_dict(like, sep="/")
    unknown = sorted(found.keys() - wanted.keys())
    if unknown:
        remedy = "Use the module that they were made with."
        if set(params) >= {"params"}:
            remedy = 'Give variables["params"], not the variables.'
        raise ValueError(
            f"params must be the model's, which has no {unknown[0]!r}. {remedy}"
        )
    for name, leaf in wanted.items():
        if name not in found:
            if not whole:
                continue
            raise ValueError(
                f"params must be the model's, but {name!r} is missing. Use all that the "
                f"module was made with."
            )
        if np.shape(found[name]) != leaf.shape:
            raise ValueError(
                f"params must be the model's, where {name!r} has the shape {leaf.shape}, "
                f"got {np.shape(found[name])}. Use the module that they were made with."
            )
