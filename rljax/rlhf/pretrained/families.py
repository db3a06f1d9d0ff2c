"""The fields of a `config.json` of transformers and ours: one table a family.

Every field that transformers 5.23 reads is in a family's `fields`, among its windows or
rotary positions, in `only` or in `without_effect`. It reads no others, nor do we.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from rljax.rlhf.pretrained.files import typed
from rljax.rlhf.pretrained.positions import (
    FULL,
    GEMMA2,
    MISTRAL,
    QWEN,
    ROPE_FIELDS,
    Windows,
)


class Kind(NamedTuple):
    """How a value of theirs is read as ours, with its name for errors, and written."""

    read: Callable[[str, Any], Any]
    write: Callable[[Any], Any] = lambda value: value


class Field(NamedTuple):
    """A field of `config.json` and those of `TransformerConfig` that it sets.

    `absent` is the value of theirs where the file has none, or a function of our fields
    so far; `...` where the file must have one. `null`, if not `...`, is that for null.
    """

    theirs: str
    ours: tuple[str, ...]
    kind: Kind
    absent: Any = ...
    null: Any = ...


class Family(NamedTuple):
    """How a family of models is written down: the fields, in order.

    Attributes:
        name: the first part of the classes' names.
        language_model: the rest of the name of the class of language models.
        fields: what is read.
        windows: those fields that say which layers see a window alone.
        constants: our fields that no model varies, or functions of those that were read.
        only: fields of theirs with the only values that we compute, beside `ONLY`.
        without_effect: fields that change no score, beside `_WITHOUT_EFFECT`.
        pad_id: that of a file without one.
    """

    name: str
    language_model: str
    fields: tuple[Field, ...]
    windows: Windows
    constants: dict[str, Any]
    only: dict[str, tuple[Any, ...]]
    without_effect: tuple[str, ...] = ()
    pad_id: int | None = None


# theirs: ours. Those that come first are written. gelu_fast rounds a constant at 1e-10.
_ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "relu": "relu"} | {
    **dict.fromkeys(("gelu_pytorch_tanh", "gelu_new", "gelu_fast"), "gelu_tanh"),
    "swish": "silu",
}


def _activation(name: str, value: Any) -> str:
    if value not in list(_ACTIVATIONS):
        raise ValueError(
            f"{name} must be one of {', '.join(_ACTIVATIONS)}, got {value!r}"
        )
    return _ACTIVATIONS[value]


def _positive(name: str, value: Any) -> float:
    if not typed(name, value, float) > 0:
        raise ValueError(f"{name} must be above 0, got {value!r}")
    return float(value)


_FLAG = Kind(lambda name, value: typed(name, value, bool))
_WHOLE = Kind(lambda name, value: typed(name, value, int))
_NUMBER = Kind(lambda name, value: typed(name, value, float))
_BOUND = Kind(lambda name, value: None if value is None else _positive(name, value))
_ACTIVATION = Kind(
    _activation,
    lambda ours: next(name for name, value in _ACTIVATIONS.items() if value == ours),
)
# Gemma 2's: what is under the root.
_SCALE = Kind(
    lambda name, value: _positive(name, value) ** -0.5, lambda scale: round(scale**-2)
)
_SCALED = Kind(
    lambda name, value: None if typed(name, value, bool) else 1.0,
    lambda scale: scale != 1.0,
)

_num_heads = operator.itemgetter("num_heads")


def _quotient(ours: dict[str, Any]) -> int:
    return ours["hidden_size"] // ours["num_heads"]


def _llama(
    *more: Field,
    kv_heads: Any = _num_heads,
    head_dim: Any = _quotient,
    activation: str = "hidden_act",
    tied: bool = False,
) -> tuple[Field, ...]:
    """Returns the fields of Llama and the families after it, and those of one alone."""
    usual = "silu" if activation == "hidden_act" else "gelu_pytorch_tanh"
    return (
        Field("vocab_size", ("vocab_size",), _WHOLE),
        Field("hidden_size", ("hidden_size",), _WHOLE),
        Field("intermediate_size", ("intermediate_size",), _WHOLE),
        Field("num_hidden_layers", ("num_layers",), _WHOLE),
        Field("num_attention_heads", ("num_heads",), _WHOLE),
        Field(
            "num_key_value_heads",
            ("num_kv_heads",),
            _WHOLE,
            absent=kv_heads,
            null=_num_heads,
        ),
        Field("head_dim", ("head_dim",), _WHOLE, absent=head_dim, null=head_dim),
        Field("max_position_embeddings", ("max_length",), _WHOLE),
        Field("rms_norm_eps", ("norm_eps",), _NUMBER, 1e-6),
        Field(activation, ("activation",), _ACTIVATION, usual),
        Field("tie_word_embeddings", ("tie_embeddings",), _FLAG, tied),
        *more,
    )


_BIASES = Field("attention_bias", ("qkv_bias", "out_bias"), _FLAG, False)
_NO_BIASES = dict.fromkeys(("attention_bias", "mlp_bias"), (False, None))
# Qwen2 has its biases in any case.
_NO_MLP_BIAS = {"mlp_bias": (False, None)}
_NO_WINDOWS: dict[str, Any] = {"use_sliding_window": (False, None)}

_GPT2_WITHOUT_EFFECT = (
    "reorder_and_upcast_attn",  # in half precision alone
    "attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout", "classifier_dropout",
    # of GPT2DoubleHeadsModel
    "summary_type", "summary_use_proj", "summary_activation",
    "summary_proj_to_labels", "summary_first_dropout", "summary_last_dropout",
    "n_ctx", "sliding_window", "max_window_layers",
)  # fmt: skip

FAMILIES = {
    "llama": Family(
        "Llama",
        "ForCausalLM",
        _llama(_BIASES, Field("mlp_bias", ("mlp_bias",), _FLAG, False)),
        FULL,
        {},
        _NO_WINDOWS,
        ("sliding_window", "max_window_layers", "pretraining_tp"),
    ),
    "mistral": Family(
        "Mistral",
        "ForCausalLM",
        _llama(kv_heads=8),
        MISTRAL,
        {},
        _NO_BIASES | _NO_WINDOWS,
        ("max_window_layers",),
    ),
    "qwen2": Family(
        "Qwen2",
        "ForCausalLM",
        _llama(kv_heads=32),
        QWEN,
        {"qkv_bias": True},
        _NO_MLP_BIAS,
        ("attention_bias",),
    ),
    "qwen3": Family(
        "Qwen3",
        "ForCausalLM",
        _llama(_BIASES, kv_heads=32, head_dim=128),  # no quotient
        QWEN,
        {"qk_norm": True},
        _NO_MLP_BIAS,
    ),
    "gemma2": Family(
        "Gemma2",
        "ForCausalLM",
        _llama(
            _BIASES,
            Field("query_pre_attn_scalar", ("attention_scale",), _SCALE, 256),
            Field("attn_logit_softcapping", ("attention_softcap",), _BOUND, 50.0),
            Field("final_logit_softcapping", ("logit_softcap",), _BOUND, 30.0),
            kv_heads=4,
            head_dim=256,
            activation="hidden_activation",
            tied=True,
        ),
        GEMMA2,
        {"embed_scale": lambda ours: ours["hidden_size"] ** 0.5}
        | dict.fromkeys(("norm_offset", "post_norms"), True),
        _NO_MLP_BIAS | _NO_WINDOWS,
        ("hidden_act", "max_window_layers"),
        pad_id=0,
    ),
    "gpt2": Family(
        "GPT2",
        "LMHeadModel",
        (
            Field("vocab_size", ("vocab_size",), _WHOLE),
            Field("n_embd", ("hidden_size",), _WHOLE),
            Field(
                "n_inner",
                ("intermediate_size",),
                _WHOLE,
                absent=lambda ours: 4 * ours["hidden_size"],
                null=lambda ours: 4 * ours["hidden_size"],
            ),
            Field("n_layer", ("num_layers",), _WHOLE),
            Field("n_head", ("num_heads",), _WHOLE),
            Field("n_positions", ("max_length",), _WHOLE),
            Field("layer_norm_epsilon", ("norm_eps",), _NUMBER, 1e-5),
            Field("activation_function", ("activation",), _ACTIVATION, "gelu_new"),
            Field("scale_attn_weights", ("attention_scale",), _SCALED, True),
            Field("tie_word_embeddings", ("tie_embeddings",), _FLAG, True),
        ),
        FULL,
        {
            "num_kv_heads": _num_heads,
            "head_dim": _quotient,
            "rope": None,
            "layer_norm": True,
            "gated_mlp": False,
        }
        | dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), True),
        _NO_WINDOWS | {"scale_attn_by_inverse_layer_idx": (False, None)},
        _GPT2_WITHOUT_EFFECT,
    ),
}
# Second names that transformers knows for GPT-2's fields.
SECOND_NAMES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

# The only values that we compute, the first of which an error names, for all families.
ONLY: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "is_causal": (True,),
    "use_bidirectional_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "per_layer_config": (None, {}),
    "pruned_heads": (None, {}),
    **dict.fromkeys(("text_config", "text_encoder", "decoder", "generator"), (None,)),
}
REMEDIES = {
    "quantization_config": "Dequantize the model with transformers and save it anew.",
}

# Heads are read with the weights: id2label; and pad_token_id by `read_pad_id`.
_WITHOUT_EFFECT = (
    "architectures", "model_type", "transformers_version", "torch_dtype", "dtype",
    "_name_or_path", "name_or_path", "auto_map",
    # training and generation
    "attention_dropout", "initializer_range", "use_cache", "gradient_checkpointing",
    "problem_type", "task_specific_params", "is_decoder", "cross_attention_hidden_size",
    "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "pad_token_id",
    "num_labels", "id2label", "label2id",
    # which outputs, and by which kernel
    "output_attentions", "output_hidden_states", "return_dict", "use_return_dict",
    "_attn_implementation", "attn_implementation", "chunk_size_feed_forward",
    "tie_last_hidden_states",
)  # fmt: skip


def known_fields(model_type: str) -> set[str]:
    """Returns each field of a family's `config.json` that these tables speak of."""
    family = FAMILIES[model_type]
    names = {field.theirs for field in family.fields} | {*family.windows.fields}
    names |= {*ONLY, *family.only, *_WITHOUT_EFFECT, *family.without_effect}
    if "rope" in family.constants:
        return names | {*SECOND_NAMES}
    return names | {*ROPE_FIELDS}
