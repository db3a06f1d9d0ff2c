"""The shape of a transformer decoder, and of low-rank terms beside its weights."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.rlhf.models.rope import Rope

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": nn.silu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
}
LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank terms beside the weights W of every block: W x + (alpha / rank) B A x.

    Attributes:
        rank: of the terms.
        alpha: their weight, times the rank.
        targets: the weights that have one, of `LORA_TARGETS`.

    References:
        Hu et al. (2022), https://arxiv.org/abs/2106.09685.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = LORA_TARGETS

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}. Raise it.")
        if not self.targets or not set(self.targets) <= set(LORA_TARGETS):
            raise ValueError(
                f"targets must be some of {', '.join(LORA_TARGETS)}, got {self.targets}."
            )

    @property
    def scale(self) -> float:
        """What the low-rank terms are multiplied by."""
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The shape of a decoder. Static.

    Attributes:
        vocab_size: number of token ids V.
        hidden_size: width of the residual stream D.
        num_kv_heads: key and value heads; a divisor of `num_heads`, the query heads.
        max_length: longest row, in tokens.
        rope: rotary positions, or None for learned ones (GPT-2).
        windows: of each layer, how many tokens a query sees, itself the last; 0 sees
            all. () where all layers see all.
        norm_eps: added to the variance.
        layer_norm: LayerNorm with a bias (GPT-2) rather than RMSNorm.
        norm_offset: RMSNorm scales by 1 + its parameter (Gemma 2).
        post_norms: norms after attention and after the MLP too (Gemma 2).
        gated_mlp: a product of two layers, one activated, rather than one (GPT-2).
        activation: of the MLP; None is silu, or gelu_tanh without a gate. gelu_tanh is
            the approximation by tanh.
        qkv_bias: biases of queries, keys and values (Qwen2, GPT-2); `out_bias` that of
            attention's output, `mlp_bias` those of the MLP (GPT-2).
        qk_norm: RMSNorm of each head's queries and keys (Qwen3).
        attention_scale: multiplies queries times keys; None is head_dim ** -0.5.
        attention_softcap: bound of those by tanh (Gemma 2); `logit_softcap` that of the
            logits. None bounds nothing.
        embed_scale: multiplies the embeddings of tokens.
        tie_embeddings: logits from the embedding's transpose.
        dtype: of the matrix products: float32 or bfloat16. Parameters are float32, and
            so are norms, logits and heads; with float64 these are float64.
        lora: low-rank terms beside the blocks' weights; None has none.
        fixed_layers: the first blocks, through which no gradient is computed.
        remat: whether gradients compute every block once more instead of keeping what is
            within it: slower, with less memory.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_length: int
    rope: Rope | None = dataclasses.field(default_factory=Rope)
    windows: tuple[int, ...] = ()
    norm_eps: float = 1e-5
    layer_norm: bool = False
    norm_offset: bool = False
    post_norms: bool = False
    gated_mlp: bool = True
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embed_scale: float = 1.0
    tie_embeddings: bool = False
    dtype: Any = jnp.float32
    lora: Lora | None = None
    fixed_layers: int = 0
    remat: bool = False

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "fixed_layers" else 1
            if field.type is int and (type(value) is not int or value < least):
                raise ValueError(
                    f"{field.name} must be a whole number of at least {least}, got "
                    f"{value!r}."
                )
        if self.fixed_layers > self.num_layers:
            raise ValueError(
                f"fixed_layers must be at most the {self.num_layers} blocks, got "
                f"{self.fixed_layers}."
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads must divide num_heads, got {self.num_kv_heads} and "
                f"{self.num_heads}. Choose a divisor."
            )
        if self.rope is not None and self.head_dim % 2:
            raise ValueError(
                f"head_dim must be even for rotary positions, got {self.head_dim}."
            )
        if self.windows and (
            len(self.windows) != self.num_layers
            or not all(type(window) is int and window >= 0 for window in self.windows)
        ):
            raise ValueError(
                f"windows must be a whole number of at least 0 for each of "
                f"{self.num_layers} layers, got {self.windows}. Give () to see all."
            )
        if self.activation not in (None, *ACTIVATIONS):
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got "
                f"{self.activation!r}."
            )
        for name in ("attention_scale", "attention_softcap", "logit_softcap"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0 or None, got {value}.")

    @property
    def wide_dtype(self) -> Any:
        """Of norms, logits and heads: float32, or float64 if the products are."""
        return jnp.promote_types(self.dtype, jnp.float32)
