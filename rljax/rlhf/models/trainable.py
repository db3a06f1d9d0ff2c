"""What of a model is trained: all of it, its last blocks, low-rank terms, or its head.

One choice, for every algorithm that trains a language model or a reward model:

    module = adapt(module, choice)          # what it computes with, and what has gradients
    learned, fixed = split(params, choice)  # the algorithm's state, and its task
    params = join(learned, fixed)
    module, params = merge(module, params)  # low-rank terms added to the weights
"""

import dataclasses
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import traverse_util

from rljax.base import Params
from rljax.rlhf.models.config import Lora


@dataclasses.dataclass(frozen=True)
class Everything:
    """All parameters are trained."""


@dataclasses.dataclass(frozen=True)
class LastLayers:
    """The last `count` blocks are trained, the norm after them, and a reward's head."""

    count: int

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(
                f"count must be at least 1 block, got {self.count}. Choose HeadOnly for "
                f"none."
            )


@dataclasses.dataclass(frozen=True)
class LoraOnly:
    """Low-rank terms of the blocks' weights are trained, and a reward's head."""

    lora: Lora = dataclasses.field(default_factory=Lora)


@dataclasses.dataclass(frozen=True)
class HeadOnly:
    """Only a reward's head is trained."""


Trainable: TypeAlias = Everything | LastLayers | LoraOnly | HeadOnly


def adapt(module: Any, trainable: Trainable) -> Any:
    """Returns the module to train so: with low-rank terms, or with blocks that are fixed.

    Args:
        module: a `Transformer` or a `RewardModel`.
        trainable: what is trained.

    Raises:
        ValueError: it has fewer blocks than are to be trained.
    """
    config = module.config
    fixed, lora = 0, None
    if isinstance(trainable, LastLayers):
        if trainable.count > config.num_layers:
            raise ValueError(
                f"count must be at most the model's {config.num_layers} blocks, got "
                f"{trainable.count}. Lower it, or train everything."
            )
        fixed = config.num_layers - trainable.count
    elif isinstance(trainable, HeadOnly):
        fixed = config.num_layers
    elif isinstance(trainable, LoraOnly):
        lora = trainable.lora
    return module.clone(
        config=dataclasses.replace(config, fixed_layers=fixed, lora=lora)
    )


def split(
    params: Params, trainable: Trainable, fixed_layers: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the parameters that are trained, and those that are not.

    Of a leaf over the blocks each has its part: `fixed_layers` of them are not trained.
    What is not trained may be split again, into nothing and itself.
    """
    learned, fixed = {}, {}
    for path, leaf in traverse_util.flatten_dict(params).items():
        if isinstance(trainable, LastLayers) and "layers" in path:
            fixed[path] = leaf[:fixed_layers]
            if leaf.shape[0] > fixed_layers:
                learned[path] = leaf[fixed_layers:]
        elif _is_trained(path, trainable):
            learned[path] = leaf
        else:
            fixed[path] = leaf
    return traverse_util.unflatten_dict(learned), traverse_util.unflatten_dict(fixed)


def join(learned: dict[str, Any], fixed: dict[str, Any]) -> Params:
    """Returns the parameters whose parts these are: the inverse of `split`."""
    first, last = map(traverse_util.flatten_dict, (fixed, learned))
    both = {
        path: jnp.concatenate([first[path], last[path]])
        for path in first.keys() & last.keys()
    }
    return traverse_util.unflatten_dict({**first, **last, **both})


def merge(module: Any, params: Params) -> tuple[Any, Params]:
    """Returns the plain model: low-rank terms are added to the weights they stand beside.

    A model that was not adapted comes back as it is. Members of an ensemble, stacked,
    are merged one by one.
    """
    lora = module.config.lora
    plain = dataclasses.replace(module.config, fixed_layers=0, remat=False, lora=None)
    if lora is None:
        return module.clone(config=plain), params
    flat = traverse_util.flatten_dict(params)
    merged = {path: leaf for path, leaf in flat.items() if not _is_low_rank(path)}
    for path in flat:
        if _is_low_rank(path) and path[-1] == "a":
            *before, name, _ = path
            place = (*before, name.removesuffix("_lora"), "kernel")
            a, b = flat[path], flat[*before, name, "b"]
            term = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
            merged[place] = merged[place] + lora.scale * term
    return module.clone(config=plain), traverse_util.unflatten_dict(merged)


def _is_trained(path: tuple[str, ...], trainable: Trainable) -> bool:
    if isinstance(trainable, Everything) or path[0].startswith("head"):
        return True
    if isinstance(trainable, LoraOnly):
        return _is_low_rank(path)
    return isinstance(trainable, LastLayers) and "norm" in path


def _is_low_rank(path: tuple[str, ...]) -> bool:
    return any(name.endswith("_lora") for name in path)
