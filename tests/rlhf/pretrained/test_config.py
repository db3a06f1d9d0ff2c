"""What a field of config.json does: it is read, refused by name, or without effect."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from rljax.rlhf.models.config import TransformerConfig
from rljax.rlhf.models.rope import Rope
from rljax.rlhf.pretrained.config import read_config, write_config
from rljax.rlhf.pretrained.files import PretrainedError

GOLDEN = Path(__file__).parents[2] / "golden" / "pretrained"
FAMILIES = ["gpt2", "gemma2", "llama", "mistral", "qwen2", "qwen3"]


def raw_of(family, **changes):
    raw = (
        json.loads((GOLDEN / f"{family}-reward" / "config.json").read_text()) | changes
    )
    return {name: value for name, value in raw.items() if value is not ...}


def read(family, **changes):
    return read_config(raw_of(family, **changes), "config.json")


S, F = "sliding_attention", "full_attention"


@pytest.mark.parametrize(
    ("family", "changes", "windows"),
    [
        ("llama", {"layer_types": [F, F]}, ()),
        ("mistral", {}, (8, 8)),
        ("mistral", {"sliding_window": ...}, (4096, 4096)),
        ("mistral", {"sliding_window": None}, ()),
        ("mistral", {"layer_types": [S, S]}, (8, 8)),
        ("qwen2", {"layer_types": ...}, ()),
        ("qwen2", {"sliding_window": 8}, ()),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8}, ()),
        (
            "qwen3",
            {"use_sliding_window": True, "sliding_window": 8, "layer_types": [F, S]},
            (0, 8),
        ),
        (
            "qwen2",
            {
                "use_sliding_window": True,
                "sliding_window": 8,
                "layer_types": None,
                "max_window_layers": 1,
            },
            (0, 8),
        ),
        ("gemma2", {"layer_types": ...}, (8, 0, 8)),
        ("gemma2", {"layer_types": ..., "sliding_window": ...}, (4096, 0, 4096)),
        ("gemma2", {"layer_types": [F, S, S]}, (0, 8, 8)),
        ("gemma2", {"layer_types": [F, F, F]}, ()),
    ],
)
def test_windows_are_those_of_the_family(family, changes, windows):
    config = read(family, **changes)
    assert config.windows == windows
    again = read_config(write_config(config, is_reward_model=True), "config.json")
    assert again == config


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("silu", None), ("swish", None), ("gelu", "gelu"), ("relu", "relu"),
        ("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh"),
        ("gelu_fast", "gelu_tanh"),
    ],
)  # fmt: skip
def test_activations_are_told_apart(name, ours):
    config = read("llama", hidden_act=name)
    assert config.activation == ours
    gemma = read("gemma2", hidden_activation=name, hidden_act="passed over")
    assert gemma.activation == ours
    gpt2 = read("gpt2", activation_function=name).activation
    assert gpt2 == {None: "silu", "gelu_tanh": None}.get(ours, ours)
    for written in (config, gemma):
        again = read_config(write_config(written, is_reward_model=True), "config.json")
        assert again == written


ROPES = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024,
    },
    "yarn by its own numbers": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
        "beta_fast": 2.0, "beta_slow": 0.5, "mscale": 1.5, "mscale_all_dim": 0.7,
        "truncate": False,
    },
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
}  # fmt: skip
# Of transformers 5.23: inv_freq for a head of 16, and attention_scaling.
LONG = [0.025, 0.0079056947, 0.0025, 0.00079056947, 0.00025, 7.9056947e-05]
WAVES = {
    "linear": ([0.25, 0.079056941, *LONG], 1.0),
    "yarn": (
        [
            1.0, 0.31622776, 0.081250004, 0.019764237, 0.004375, 0.00079056947,
            0.00025, 7.9056947e-05,
        ],
        1.13862944,
    ),
    "yarn by its own numbers": ([1.0, 0.16058916, *LONG], 1.10109339),
    "llama3": (
        [
            1.0, 0.24438459, 0.013042256, 0.0039528473, 0.00125, 0.00039528473,
            0.000125, 3.9528473e-05,
        ],
        1.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROPES)
def test_stretched_positions_are_transformers(name):
    config = read("llama", head_dim=16, rope_parameters=ROPES[name])
    waves, factor = WAVES[name]
    np.testing.assert_allclose(config.rope.frequencies(16), waves, rtol=1e-6)
    np.testing.assert_allclose(config.rope.attention_factor, factor, rtol=1e-6)
    old = read("llama", head_dim=16, rope_parameters=..., rope_scaling=ROPES[name])
    assert old == config
    again = read_config(write_config(config, is_reward_model=True), "config.json")
    assert again == config


def test_dynamic_positions_are_the_default_within_the_context():
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 500.0}
    assert read("llama", rope_parameters=rope).rope == Rope(theta=500.0)


@pytest.mark.parametrize(
    ("family", "changes", "shape"),
    [
        ("gpt2", {"scale_attn_weights": False}, {"attention_scale": 1.0}),
        ("gpt2", {"n_inner": None}, {"intermediate_size": 64}),
        ("gpt2", {"reorder_and_upcast_attn": True}, {}),
        ("llama", {"mlp_bias": True}, {"mlp_bias": True}),
        ("llama", {"num_key_value_heads": None}, {"num_kv_heads": 4}),
        ("mistral", {"num_key_value_heads": ..., "num_attention_heads": 8}, {"num_kv_heads": 8}),
        ("mistral", {"head_dim": None}, {"head_dim": 4}),
        ("qwen3", {"head_dim": ...}, {"head_dim": 128}),
        ("gemma2", {"head_dim": ...}, {"head_dim": 256}),
        ("gemma2", {"query_pre_attn_scalar": ...}, {"attention_scale": 1 / 16}),
        ("gemma2", {"attn_logit_softcapping": None}, {"attention_softcap": None}),
        ("gemma2", {"final_logit_softcapping": ...}, {"logit_softcap": 30.0}),
        ("gemma2", {}, {"embed_scale": 4.0, "norm_offset": True, "post_norms": True}),
    ],
)  # fmt: skip
def test_fields_and_what_stands_for_missing_ones_are_read(family, changes, shape):
    config = read(family, **changes)
    assert {name: getattr(config, name) for name in shape} == shape
    again = read_config(write_config(config, is_reward_model=False), "config.json")
    assert again == config


OTHER_ROPE = {"rope_type": "default", "rope_theta": 7.0}


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"hidden_act": "mish"}, "hidden_act must be one of silu.*'mish'"),
        ("gpt2", {"activation_function": "quick_gelu"}, "activation_function .*quick"),
        ("gemma2", {"hidden_activation": None}, "hidden_activation .*None"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention must be false"),
        ("gpt2", {"hidden_size": 8}, "hidden_size must be n_embd, 16: 8"),
        ("gpt2", {"scale_attn_weights": 2}, "scale_attn_weights must be true or false"),
        ("llama", {"attention_bias": "false"}, "attention_bias must be true or false"),
        ("llama", {"vocab_size": True}, "vocab_size must be a whole number"),
        ("llama", {"rms_norm_eps": None}, "rms_norm_eps must be a number"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config.*Dequan"),
        ("llama", {"is_causal": False}, "is_causal must be true, got false"),
        (
            "gemma2",
            {"use_bidirectional_attention": True},
            "use_bidirectional_attention",
        ),
        (
            "llama",
            {"per_layer_config": {"1": {"a": 1}}},
            "per_layer_config must be null",
        ),
        ("llama", {"text_config": {"vocab_size": 1}}, "text_config must be null"),
        ("llama", {"use_sliding_window": True}, "use_sliding_window must be false"),
        (
            "llama",
            {"layer_types": [F, S]},
            "layer_types must be full_attention for all",
        ),
        (
            "qwen2",
            {"layer_types": [F, S]},
            "layer_types must be full_attention for all",
        ),
        ("qwen2", {"layer_types": [F, "conv"]}, "layer_types must be full.*'conv'"),
        ("qwen2", {"layer_types": [F]}, "layer_types must be full.* each of 2"),
        ("mistral", {"layer_types": [F, S]}, "layer_types must be sliding_attention"),
        ("mistral", {"sliding_window": 0}, "sliding_window must be at least 1"),
        ("mistral", {"attention_bias": True}, "attention_bias must be false"),
        ("qwen3", {"mlp_bias": True}, "mlp_bias must be false"),
        ("gemma2", {"attn_logit_softcapping": 0}, "attn_logit_softcapping .* above 0"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1"),
        ("llama", {"rope_scaling": {"type": "longrope"}}, "rope_type .*'longrope'"),
        ("llama", {"rope_scaling": {"type": "new"}}, "rope_type .*'new'"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "no factor"),
        ("llama", {"rope_scaling": 2.0}, "rope_parameters must be an object"),
        (
            "gemma2",
            {"rope_parameters": {F: OTHER_ROPE, S: OTHER_ROPE | {"rope_theta": 8.0}}},
            "rope_parameters must be those of all layers",
        ),
    ],
)
def test_what_we_do_not_compute_is_refused_by_name(family, changes, message):
    with pytest.raises(PretrainedError, match=message):
        read(family, **changes)


def test_a_shape_of_no_family_is_not_written():
    config = dataclasses.replace(read("llama"), attention_softcap=2.0)
    with pytest.raises(PretrainedError, match="no model of this shape"):
        write_config(config, is_reward_model=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_written_under_its_name(family):
    raw = write_config(read(family), is_reward_model=True)
    assert raw["model_type"] == family


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"windows": (1,)}, "for each of 2 layers"),
        ({"windows": (1, -1)}, "at least 0"),
        ({"activation": "mish"}, "activation must be one of"),
        ({"logit_softcap": 0.0}, "logit_softcap must be above 0"),
        ({"num_layers": True}, "num_layers must be a whole number"),
    ],
)
def test_a_shape_is_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**vars(read("llama")) | wrong)


@pytest.mark.parametrize(
    ("wrong", "message"), [({"stretch": "su"}, "stretch"), ({"factor": 0.0}, "factor")]
)
def test_positions_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        Rope(**wrong)
