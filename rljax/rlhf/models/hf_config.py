"""A `config.json` of transformers and our `TransformerConfig`: one table a family."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from rljax.rlhf.models.hf_files import PretrainedError
from rljax.rlhf.models.transformer import Rope, TransformerConfig


class _Field(NamedTuple):
    """A field of `config.json` and those of `TransformerConfig` that it sets.

    Without any of ours it is only written, as `default`. That is a value, whose type
    converts what is there; or a function of our fields so far, for a field that is
    missing or null; or `...` for a field that must be there.
    """

    theirs: str
    ours: tuple[str, ...]
    default: Any = ...


class _Family(NamedTuple):
    """How a family of models is written down: the fields, in order.

    Attributes:
        name: the first part of the classes' names.
        language_model: the rest of the name of the class of language models.
        constants: our fields that no model varies, or functions of those that were read.
        required: fields of theirs with the only value that we compute, and the default.
        refused: fields that must not all be true, and the error's message.
    """

    name: str
    language_model: str
    fields: tuple[_Field, ...]
    constants: dict[str, Any]
    required: dict[str, str]
    refused: tuple[tuple[tuple[str, ...], str], ...]


def _llama(name: str, *biases: _Field, head_dim: Callable, **constants: Any) -> _Family:
    fields = (
        _Field("vocab_size", ("vocab_size",)),
        _Field("hidden_size", ("hidden_size",)),
        _Field("intermediate_size", ("intermediate_size",)),
        _Field("num_hidden_layers", ("num_layers",)),
        _Field("num_attention_heads", ("num_heads",)),
        _Field("num_key_value_heads", ("num_kv_heads",), _num_heads),
        _Field("head_dim", ("head_dim",), head_dim),
        _Field("max_position_embeddings", ("max_length",)),
        _Field("rms_norm_eps", ("norm_eps",), 1e-6),
        *biases,
        _Field("mlp_bias", ("mlp_bias",), False),
        _Field("tie_word_embeddings", ("tie_embeddings",), False),
    )
    sliding = ("use_sliding_window", "sliding_window")
    refused = ((sliding, "sliding-window attention is not supported"),)
    required = {"hidden_act": "silu"}
    return _Family(name, "ForCausalLM", fields, constants, required, refused)


_num_heads = operator.itemgetter("num_heads")


def _quotient(ours: dict[str, Any]) -> int:
    return ours["hidden_size"] // ours["num_heads"]


_BIASES = _Field("attention_bias", ("qkv_bias", "out_bias"), False)
_FAMILIES = {
    "llama": _llama("Llama", _BIASES, head_dim=_quotient),
    "qwen2": _llama(
        "Qwen2", _Field("attention_bias", (), False), head_dim=_quotient, qkv_bias=True
    ),
    # Its default is not the quotient.
    "qwen3": _llama("Qwen3", _BIASES, head_dim=lambda ours: 128, qk_norm=True),
    "gpt2": _Family(
        "GPT2",
        "LMHeadModel",
        (
            _Field("vocab_size", ("vocab_size",)),
            _Field("n_embd", ("hidden_size",)),
            _Field(
                "n_inner", ("intermediate_size",), lambda ours: 4 * ours["hidden_size"]
            ),
            _Field("n_layer", ("num_layers",)),
            _Field("n_head", ("num_heads",)),
            _Field("n_positions", ("max_length",)),
            _Field("layer_norm_epsilon", ("norm_eps",), 1e-5),
            _Field("tie_word_embeddings", ("tie_embeddings",), True),
        ),
        {
            "num_kv_heads": _num_heads,
            "head_dim": _quotient,
            "rope": None,
            "layer_norm": True,
            "gated_mlp": False,
        }
        | dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), True),
        {"activation_function": "gelu_new"},
        tuple(
            ((name,), f"{name} is not supported")
            for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention")
        ),
    ),
}

# Llama 3.1's stretched positions: ours, theirs, the type.
_STRETCHED = (
    ("factor", "factor", float),
    ("low_freq_factor", "low_freq_factor", float),
    ("high_freq_factor", "high_freq_factor", float),
    ("original_max_length", "original_max_position_embeddings", int),
)


def read_config(raw: dict[str, Any], path: Any) -> TransformerConfig:
    """Returns the shape that a `config.json` of transformers 4 or 5 describes.

    Raises:
        PretrainedError: it describes no model that we compute; the message has `path`.
    """
    kind: Any = raw.get("model_type")
    if kind not in list(_FAMILIES):
        raise PretrainedError(
            f"model_type in {path} must be one of {', '.join(_FAMILIES)}, got {kind!r}."
        )
    try:
        return TransformerConfig(**_read_fields(raw, _FAMILIES[kind]))
    except KeyError as error:
        raise PretrainedError(
            f"{path} has no {error.args[0]}, which a {kind} needs."
        ) from error
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise PretrainedError(f"{path}: {error}") from error


def write_config(config: TransformerConfig, *, is_reward_model: bool) -> dict[str, Any]:
    """Returns the `config.json` of a shape, as both transformers 4 and 5 read it."""
    if config.rope is None:
        kind = "gpt2"
    elif config.qk_norm:
        kind = "qwen3"
    else:
        kind = "qwen2" if config.qkv_bias and not config.out_bias else "llama"
    family = _FAMILIES[kind]
    head = "ForSequenceClassification" if is_reward_model else family.language_model
    raw = {
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
        "torch_dtype": "float32",
        "model_type": kind,
        "architectures": [family.name + head],
    }
    for theirs, ours, default in family.fields:
        values = [getattr(config, name) for name in ours] or [default]
        raw[theirs] = values[0] if len(values) == 1 else all(values)
    return raw | (_write_rope(config.rope) if config.rope else {})


def _read_fields(raw: dict[str, Any], family: _Family) -> dict[str, Any]:
    for name, value in family.required.items():
        if raw.get(name, value) != value:
            raise ValueError(f"{name} must be {value}, got {raw[name]!r}")
    for names, message in family.refused:
        if all(raw.get(name) for name in names):
            raise ValueError(message)
    ours: dict[str, Any] = {}
    for theirs, names, default in family.fields:
        if default is ...:
            value = raw[theirs]
        elif callable(default):
            value = raw.get(theirs) or default(ours)
        else:
            value = type(default)(raw.get(theirs, default))
        ours |= dict.fromkeys(names, value)
    for name, value in family.constants.items():
        ours[name] = value(ours) if callable(value) else value
    return ours if "rope" in ours else ours | {"rope": _read_rope(raw)}


def _read_rope(raw: dict[str, Any]) -> Rope:
    # transformers 5 writes rope_parameters; before, rope_theta and rope_scaling.
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or raw.get("rope_theta") or 10_000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return Rope(theta=theta)
    if kind != "llama3":
        raise ValueError(f"rope_type must be default or llama3, got {kind!r}")
    read: Any = {ours: kind(rope[theirs]) for ours, theirs, kind in _STRETCHED}
    return Rope(theta=theta, **read)


def _write_rope(rope: Rope) -> dict[str, Any]:
    new: dict[str, Any] = {"rope_type": "default", "rope_theta": rope.theta}
    old: dict[str, Any] = {"rope_theta": rope.theta, "rope_scaling": None}
    if rope.factor != 1.0:
        new["rope_type"] = "llama3"
        new |= {theirs: getattr(rope, ours) for ours, theirs, _ in _STRETCHED}
        old["rope_scaling"] = new
    return {"rope_parameters": new} | old
