"""Heads of reward models in others' folders, found by the names of their weights.

| weights | who writes them |
| --- | --- |
| `score.weight`, `score.bias` | transformers' `*ForSequenceClassification` has no bias |
| `score.0.*`, `score.2.*` | two layers with a ReLU between, as Qwen2.5's reward models |
| `v_head.summary.*` | TRL's models with a value head |
| `value_head.*` | a linear layer beside a language model |
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.rlhf.pretrained.files import PretrainedError, warn

# The last layer's.
_LAST = ("score", "score.2", "v_head.summary", "value_head")
PREFIXES = ("score.", "v_head.", "value_head.")


class Head(NamedTuple):
    """Parameters of a head as `RewardModel` has them, and the options they need."""

    params: dict[str, Any]
    use_bias: bool
    hidden: int | None


def read_head(
    tensors: dict[str, Any],
    raw: dict[str, Any],
    width: int,
    folder: Path,
    label: str | int | None,
) -> Head:
    """Returns the head of one label; what was read is taken out of `tensors`.

    Args:
        tensors: readers, by name.
        raw: `config.json`, which names the labels.
        width: of the trunk.
        folder: where they are from.
        label: the name or the index of one; None where there is one alone.

    Raises:
        PretrainedError: there is none, there are several, or the label is missing.
    """
    kinds = [str(name) for name in raw.get("architectures") or ["unknown"]]
    if any(name.endswith("ForTokenClassification") for name in kinds):
        raise PretrainedError(
            f"{folder} holds a model that scores every token ({kinds[0]}), not a whole "
            f"text. Give a folder of a *ForSequenceClassification model."
        )
    plain = any(name.endswith("ForSequenceClassification") for name in kinds)
    if plain and tensors.pop("score.bias", None):
        warn(
            f"{folder} has score.bias, which transformers' {kinds[0]} does not have: "
            f"passed over, as there."
        )
    found = [name for name in _LAST if f"{name}.weight" in tensors]
    if not found:
        kind = ", ".join(kinds)
        names = ", ".join(f"{name}.weight" for name in _LAST)
        raise PretrainedError(
            f"{folder} holds no reward model: it has no {names} (architecture: {kind}). "
            f"Give a folder of a *ForSequenceClassification model."
        )
    if len(found) > 1:
        names = ", ".join(f"{name}.weight" for name in found)
        raise PretrainedError(
            f"{folder} must have one head, got {names}. Remove all but one."
        )
    (name,) = found
    params, hidden = {}, None
    if name == "score.2":
        params["head_in"] = layer = _layer(tensors, "score.0", width, folder)
        width = hidden = layer["kernel"].shape[1]
    last = _layer(tensors, name, width, folder)
    row = _row(raw, last["kernel"].shape[1], f"{name}.weight in {folder}", label)
    params["head"] = {key: value[..., row : row + 1] for key, value in last.items()}
    if len({len(layer) for layer in params.values()}) > 1:
        raise PretrainedError(
            f"score.0 and score.2 in {folder} must both have a bias or neither."
        )
    use_bias = "bias" in params["head"]
    as_float32 = functools.partial(jnp.asarray, dtype=jnp.float32)
    return Head(jax.tree.map(as_float32, params), use_bias, hidden)


def _layer(
    tensors: dict[str, Any], name: str, inputs: int, folder: Path
) -> dict[str, np.ndarray]:
    """Returns a linear layer's `kernel` [inputs, outputs] and its `bias`, if it has one."""
    if f"{name}.weight" not in tensors:
        raise PretrainedError(f"{folder} has no weight {name}.weight: it is not whole.")
    weight = tensors.pop(f"{name}.weight")()
    if weight.ndim != 2 or weight.shape[1] != inputs:
        raise PretrainedError(
            f"{name}.weight in {folder} must be [labels, {inputs}], got "
            f"{list(weight.shape)}."
        )
    layer = {"kernel": weight.T}
    if f"{name}.bias" in tensors:
        layer["bias"] = tensors.pop(f"{name}.bias")()
        if layer["bias"].shape != weight.shape[:1]:
            raise PretrainedError(
                f"{name}.bias in {folder} must be {list(weight.shape[:1])}, got "
                f"{list(layer['bias'].shape)}."
            )
    return layer


def _row(raw: dict[str, Any], count: int, what: str, label: str | int | None) -> int:
    given = raw.get("id2label")
    given = given if isinstance(given, dict) else {}
    names = [str(given.get(str(i), f"LABEL_{i}")) for i in range(count)]
    if label is None and count == 1:
        return 0
    if isinstance(label, str) and names.count(label) == 1:
        return names.index(label)
    if isinstance(label, str) and label.isdecimal():
        label = int(label)
    if type(label) is int and 0 <= label < count:
        return label
    listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
    raise PretrainedError(
        f"{what} scores {count} labels ({listed}), got label={label!r}. Give the name or "
        f"the index of one."
    )
