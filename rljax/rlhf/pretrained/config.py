"""A `config.json` of transformers and our `TransformerConfig`, read and written."""

import dataclasses
import json
from typing import Any

import jax.numpy as jnp

from rljax.rlhf.models.config import TransformerConfig
from rljax.rlhf.pretrained.families import (
    FAMILIES,
    ONLY,
    REMEDIES,
    SECOND_NAMES,
    Family,
)
from rljax.rlhf.pretrained.files import PretrainedError
from rljax.rlhf.pretrained.positions import read_rope, write_rope


def read_config(raw: dict[str, Any], path: Any) -> TransformerConfig:
    """Returns the shape that a `config.json` of transformers 4 or 5 describes.

    Raises:
        PretrainedError: it describes no model that we compute; the message has `path`.
    """
    kind = _model_type(raw, path)
    try:
        return TransformerConfig(**_read_fields(raw, FAMILIES[kind]))
    except KeyError as error:
        raise PretrainedError(
            f"{path} has no {error.args[0]}, which a {kind} needs."
        ) from error
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise PretrainedError(f"{path}: {error}") from error


def read_pad_id(raw: dict[str, Any], path: Any) -> int | None:
    """Returns the id that transformers takes for padding, None if it takes none.

    Raises:
        PretrainedError: it is no whole number; the message has `path`.
    """
    pad_id = raw.get("pad_token_id", FAMILIES[_model_type(raw, path)].pad_id)
    if pad_id is None:
        return None
    if type(pad_id) is not int:
        raise PretrainedError(
            f"pad_token_id in {path} must be a token's id or null, got {pad_id!r}."
        )
    return pad_id if pad_id >= 0 else None  # no token has such an id


def write_config(config: TransformerConfig, *, is_reward_model: bool) -> dict[str, Any]:
    """Returns the `config.json` of a shape, as both transformers 4 and 5 read it.

    It is the first family's that computes this shape: a Mistral without windows is
    written as the Llama that it is.

    Raises:
        PretrainedError: no family computes it.
    """
    for kind, family in FAMILIES.items():
        if (config.rope is None) != ("rope" in family.constants):
            continue
        raw = _write_fields(config, family)
        head = "ForSequenceClassification" if is_reward_model else family.language_model
        raw |= {"model_type": kind, "architectures": [family.name + head]}
        try:
            again = read_config(raw, "config.json")
        except PretrainedError:
            continue
        if _resolved(again) == _resolved(config):
            return raw
    raise PretrainedError(
        f"transformers has no model of this shape: {config}. Write it by `save`, in a "
        f"format of our own."
    )


def _model_type(raw: dict[str, Any], path: Any) -> str:
    kind: Any = raw.get("model_type")
    if kind not in list(FAMILIES):
        raise PretrainedError(
            f"model_type in {path} must be one of {', '.join(FAMILIES)}, got {kind!r}."
        )
    return kind


def _read_fields(raw: dict[str, Any], family: Family) -> dict[str, Any]:
    for name, values in (ONLY | family.only).items():
        if name in raw and raw[name] not in values:
            given = json.dumps(raw[name])
            given = given if len(given) < 80 else given[:80] + "..."
            raise ValueError(
                f"{name} must be {json.dumps(values[0])}, got {given}. "
                f"{REMEDIES.get(name, 'Such a model is not supported.')}"
            )
    ours: dict[str, Any] = {}
    for field in family.fields:
        value = raw[field.theirs] if field.absent is ... else raw.get(field.theirs, ...)
        if value is ...:
            value = field.absent
        elif value is None and field.null is not ...:
            value = field.null
        value = value(ours) if callable(value) else value
        ours |= dict.fromkeys(field.ours, field.kind.read(field.theirs, value))
    for name, value in family.constants.items():
        ours[name] = value(ours) if callable(value) else value
    if ours["activation"] == ("silu" if ours.get("gated_mlp", True) else "gelu_tanh"):
        ours["activation"] = None
    if "rope" not in ours:
        ours["rope"] = read_rope(raw, ours["max_length"])
    else:
        for name, first in SECOND_NAMES.items():
            if raw.get(name, raw[first]) != raw[first]:
                raise ValueError(f"{name} must be {first}, {raw[first]}: {raw[name]}")
    return ours | {"windows": family.windows.read(raw, ours["num_layers"])}


def _write_fields(config: TransformerConfig, family: Family) -> dict[str, Any]:
    raw: dict[str, Any] = dict.fromkeys(
        ("pad_token_id", "bos_token_id", "eos_token_id")
    )
    raw["torch_dtype"] = "float32"
    whole = _resolved(config)[0]
    for field in family.fields:
        values = [getattr(whole, name) for name in field.ours]
        value = values[0] if len(values) == 1 else all(values)
        raw[field.theirs] = field.kind.write(value)
    raw |= family.windows.write(config.windows, config.num_layers)
    return raw | (write_rope(config.rope) if config.rope else {})


def _resolved(config: TransformerConfig) -> tuple[TransformerConfig, Any]:
    """Returns what a shape computes: no None that stands for a value, and the waves."""
    usual: Any = "silu" if config.gated_mlp else "gelu_tanh"
    whole = dataclasses.replace(
        config,
        rope=None,
        dtype=jnp.float32,
        fixed_layers=0,
        remat=False,
        windows=config.windows or (0,) * config.num_layers,
        activation=config.activation or usual,
        attention_scale=config.attention_scale or config.head_dim**-0.5,
    )
    if config.rope is None:
        return whole, None
    waves = config.rope.frequencies(config.head_dim).tolist()
    return whole, (waves, config.rope.attention_factor)
