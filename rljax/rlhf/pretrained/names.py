"""Names of tensors in others' files, and the places of our parameters."""

from typing import Any, NamedTuple

from rljax.rlhf.models.config import TransformerConfig


class Weight(NamedTuple):
    """The path of a parameter, stacked in `layers`, and its tensor's name with `{}` there.

    Where `transposed`, theirs is `[outputs, inputs]`; a vector is the same. `part` is
    which third of theirs it is (GPT-2 joins queries, keys and values).
    """

    ours: str
    theirs: str
    transposed: bool = False
    part: int | None = None

    def tensors(self, num_layers: int) -> list[tuple[str, Any]]:
        """Returns each tensor's name, and the index of its place in our parameter."""
        if self.ours.startswith("layers/"):
            return [(self.theirs.format(i), i) for i in range(num_layers)]
        return [(self.theirs, ...)]


def _blocks(prefix: str, parts: dict[str, str], transposed: bool) -> list[Weight]:
    """Returns the rows of each part of a block: its weight, then its bias."""
    return [
        Weight(
            f"layers/{ours}/{leaf}",
            f"{prefix}.{{}}.{theirs}.{'bias' if leaf == 'bias' else 'weight'}",
            transposed,
            "qkv".index(ours) if theirs == "attn.c_attn" else None,
        )
        for ours, theirs in parts.items()
        for leaf in ("scale" if ours.endswith("norm") else "kernel", "bias")
    ]


# A model has no parameter for some rows (biases, norms, a tied head).
_HEAD = Weight("lm_head/kernel", "lm_head.weight", transposed=True)


def _llama(norms: dict[str, str]) -> list[Weight]:
    return [
        _HEAD,
        Weight("embed/embedding", "model.embed_tokens.weight"),
        Weight("norm/scale", "model.norm.weight"),
        *_blocks(
            "model.layers",
            norms
            | {name: f"self_attn.{name}" for name in ("q_norm", "k_norm")}
            | {name: f"self_attn.{name}_proj" for name in "qkvo"}
            | {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")},
            transposed=True,
        ),
    ]


_LLAMA = _llama(
    {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
)
_GEMMA2 = _llama(
    {
        "attention_norm": "input_layernorm",
        "attention_post_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    }
)
# Conv1D keeps [inputs, outputs], so nothing is transposed but the head.
_GPT2 = [
    _HEAD,
    Weight("embed/embedding", "transformer.wte.weight"),
    Weight("position_embed/embedding", "transformer.wpe.weight"),
    Weight("norm/scale", "transformer.ln_f.weight"),
    Weight("norm/bias", "transformer.ln_f.bias"),
    *_blocks(
        "transformer.h",
        {"attention_norm": "ln_1", "mlp_norm": "ln_2"}
        | {"o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}
        | dict.fromkeys("qkv", "attn.c_attn"),
        transposed=False,
    ),
]


def names_of(config: TransformerConfig) -> list[Weight]:
    """Returns the rows of a shape's family."""
    if config.rope is None:
        return _GPT2
    return _GEMMA2 if config.post_norms else _LLAMA
