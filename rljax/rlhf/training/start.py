"""Where training starts from, and the model that it has made: parameters, put together."""

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from rljax.base import Params
from rljax.rlhf.models.parameters import check_params
from rljax.rlhf.models.trainable import Trainable, adapt, join, merge, split
from rljax.rlhf.models.transformer import Transformer


def with_drawn(params: Params, drawn: Params, *, new_head: bool = False) -> Params:
    """Returns parameters with what they lack, such as low-rank terms, of drawn ones.

    With `new_head`, the head too is the drawn one.
    """
    if not new_head:
        check_params(params, drawn, whole=False)
    new, old = flatten_dict(drawn), flatten_dict(params)
    if new_head:
        old = {path: x for path, x in old.items() if not path[0].startswith("head")}
    return unflatten_dict({**new, **old})


def language_model_start(key: jax.Array, module: Transformer, params: Params) -> Params:
    """Returns a language model's parameters with what they lack, drawn by a key."""
    ids = jnp.zeros((1, 1), jnp.int32)
    drawn = module.init(key, ids, method="logits")["params"]
    return with_drawn(params, drawn)


def fixed_only(module: Any, trainable: Trainable, task: Any) -> Any:
    """Returns a task without the parameters that the state has: they need no memory."""
    fixed_layers = adapt(module, trainable).config.fixed_layers
    return task.replace(params=split(task.params, trainable, fixed_layers)[1])


def trained_params(module: Any, trainable: Trainable, state: Any, task: Any) -> Params:
    """Returns the parameters of a plain model that a state's training has made so far.

    `module` is the plain model; low-rank terms are added to its weights.
    """
    adapted = adapt(module, trainable)
    fixed = split(task.params, trainable, adapted.config.fixed_layers)[1]
    return merge(adapted, join(state.params, fixed))[1]
