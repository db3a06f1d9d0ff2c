"""One transformer decoder, by configuration: Llama 3, Qwen2, Qwen3, SmolLM2, GPT-2."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding, with Llama 3.1's stretching if `factor` is not 1.

    References:
        Su et al. (2021), https://arxiv.org/abs/2104.09864; Llama Team (2024),
        https://arxiv.org/abs/2407.21783, section 3.2.
    """

    theta: float = 10_000.0
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_length: int = 8192

    def frequencies(self, head_dim: int) -> np.ndarray:
        """`[head_dim / 2]` angles per position, in radians."""
        powers = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        frequency = 1.0 / np.float32(self.theta) ** powers
        if self.factor == 1.0:
            return frequency
        # Long waves are stretched by the factor, short ones kept, those between blended.
        waves = self.original_max_length * frequency / (2 * math.pi)
        low, high = self.low_freq_factor, self.high_freq_factor
        keep = np.clip((waves - low) / (high - low), 0.0, 1.0)
        blended = (1 - keep) * frequency / self.factor + keep * frequency
        return blended.astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The shape of a decoder. Static.

    Attributes:
        vocab_size: number of token ids V.
        hidden_size: width of the residual stream D.
        num_kv_heads: key and value heads; a divisor of `num_heads`, the query heads.
        max_length: longest row, in tokens.
        rope: rotary positions, or None for learned ones (GPT-2).
        norm_eps: added to the variance.
        layer_norm: LayerNorm with a bias (GPT-2) rather than RMSNorm.
        gated_mlp: SwiGLU rather than GELU (GPT-2).
        qkv_bias: biases of queries, keys and values (Qwen2, GPT-2); `out_bias` that of
            attention's output, `mlp_bias` those of the MLP (GPT-2).
        qk_norm: RMSNorm of each head's queries and keys (Qwen3).
        tie_embeddings: logits from the embedding's transpose.
        dtype: of the matrix products: float32 or bfloat16. Parameters are float32, and
            so are norms, logits and heads.
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
    norm_eps: float = 1e-5
    layer_norm: bool = False
    gated_mlp: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and not (isinstance(value, int) and value >= 1):
                raise ValueError(
                    f"{field.name} must be a whole number of at least 1, got {value!r}."
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


class KeyValues(NamedTuple):
    """Keys and values of the tokens so far: a cache, `[num_layers, B, S, G, K]` each.

    A block's share of it has no `num_layers`.
    """

    keys: jax.Array
    values: jax.Array

    @staticmethod
    def empty(config: TransformerConfig, batch_size: int) -> "KeyValues":
        """The cache before the first token."""
        rest = config.num_kv_heads, config.head_dim
        keys = jnp.zeros((config.num_layers, batch_size, 0, *rest), config.dtype)
        return KeyValues(keys, keys)


class Transformer(nn.Module):
    """A causal decoder. The blocks' parameters are stacked: leaves `[num_layers, ...]`.

    Rows may be padded on the right without a mask: no token looks at later ones. Rows
    padded on the left need their mask.
    """

    config: TransformerConfig

    def setup(self):
        """Makes the embeddings, the blocks and the norm after them."""
        config = self.config
        init = nn.initializers.normal(0.02)
        embed = functools.partial(
            nn.Embed, features=config.hidden_size, embedding_init=init
        )
        self.embed = embed(config.vocab_size)
        if config.rope is None:
            self.position_embed = embed(config.max_length)
        self.layers = self.param("layers", self._init_layers)
        self.norm = _norm(config)
        if not config.tie_embeddings:
            # Made only where `logits` is what initializes: a reward model has none.
            self.lm_head = nn.Dense(config.vocab_size, use_bias=False, kernel_init=init)

    def __call__(self, ids: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Returns hidden states after the last norm, `[B, L, D]` float32.

        Args:
            ids: `[B, L]` int32.
            mask: `[B, L]` bool, true at real tokens; None if padding is on the right.
        """
        return self.extend(ids, mask)[0]

    def extend(
        self,
        ids: jax.Array,
        mask: jax.Array | None = None,
        cache: KeyValues | None = None,
    ) -> tuple[jax.Array, KeyValues | None]:
        """Returns hidden states `[B, L, D]` float32, and a cache of S + L tokens.

        Args:
            ids: `[B, L]` int32, the new tokens.
            mask: `[B, S + L]` bool, true at real tokens, those in the cache first; None
                if padding is on the right.
            cache: of S tokens before, `KeyValues.empty` at first; None keeps none.
        """
        start = 0 if cache is None else cache.keys.shape[2]
        x, positions = self._embed(ids, mask, start)
        length = ids.shape[1]
        visible = jnp.tri(length, start + length, start, dtype=bool)[None]
        if mask is not None:
            visible &= mask[:, None]
        x, cache = self._run(self.layers, x, positions, visible, cache)
        return self.norm(x), cache

    def last(self, ids: jax.Array, lengths: jax.Array) -> jax.Array:
        """Returns hidden states of each row's last token alone, `[B, D]` float32.

        The same as `self(ids)[row, lengths - 1]`, for less: of the last block only the
        keys and values are computed for every token.

        Args:
            ids: `[B, L]` int32, padded on the right.
            lengths: `[B]` int32, at least 1.
        """
        x, positions = self._embed(ids, None, 0)
        first = jax.tree.map(lambda p: p[:-1], self.layers)
        final = jax.tree.map(lambda p: p[-1], self.layers)
        visible = jnp.tri(ids.shape[1], dtype=bool)[None]
        x, _ = self._run(first, x, positions, visible, None)
        visible = jnp.arange(ids.shape[1])[None, None] < lengths[:, None, None]
        x, _ = self._block(final, x, positions, visible, lengths[:, None] - 1)
        return self.norm(x)[:, 0]

    def logits(self, ids: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Returns logits of each next token, `[B, L, V]` float32, as `__call__` does."""
        hidden = self(ids, mask)
        tied = self.config.tie_embeddings
        return self.embed.attend(hidden) if tied else self.lm_head(hidden)

    def _embed(self, ids, mask, start):
        if mask is None:
            positions = jnp.broadcast_to(
                start + jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape
            )
        else:
            positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)[:, start:]
        x = self.embed(ids)
        if self.config.rope is None:
            x = x + self.position_embed(positions)
        return x.astype(self.config.dtype), positions

    def _run(self, layers, x, positions, mask, cache):
        def body(x, layer_and_cache):
            layer, cache = layer_and_cache
            return self._block(layer, x, positions, mask, None, cache)

        return jax.lax.scan(body, x, (layers, cache))

    def _block(self, layer, *args):
        return Block(self.config, parent=None).apply({"params": layer}, *args)

    def _init_layers(self, key: jax.Array):
        init = jax.vmap(Block(self.config, parent=None).init, (0, None, None, None))
        keys = jax.random.split(key, self.config.num_layers)
        x = jnp.zeros((1, 1, self.config.hidden_size), jnp.float32)
        zero = jnp.zeros((1, 1), jnp.int32)
        return init(keys, x, zero, jnp.ones((1, 1, 1), bool))["params"]


class Block(nn.Module):
    """Grouped-query attention and an MLP, each after a norm and added to what came in.

    References:
        Vaswani et al. (2017), https://arxiv.org/abs/1706.03762; Ainslie et al. (2023),
        https://arxiv.org/abs/2305.13245.
    """

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        queries: jax.Array | None = None,
        cache: KeyValues | None = None,
    ) -> tuple[jax.Array, KeyValues | None]:
        """Returns the residual stream `[B, T, D]` of T queries, and S + L tokens' cache.

        Args:
            x: `[B, L, D]`, the residual stream.
            positions: `[B, L]` int32, for rotary embeddings.
            mask: `[B or 1, T, S + L]` bool, the keys that each query may look at.
            queries: `[B, T]` int32, the queries' places in `x`; None for all L.
            cache: keys and values of S tokens before these; None keeps none.
        """
        config = self.config
        dense = functools.partial(
            nn.Dense, dtype=config.dtype, kernel_init=nn.initializers.normal(0.02)
        )

        def heads(name, count, y, positions):
            width = count * config.head_dim
            z = dense(width, use_bias=config.qkv_bias, name=name)(y)
            z = z.reshape(*z.shape[:-1], count, config.head_dim)
            if name == "v":
                return z
            if config.qk_norm:
                z = nn.RMSNorm(epsilon=config.norm_eps, name=f"{name}_norm")(z)
            if config.rope is not None:
                z = _rotate(z, positions, config.rope.frequencies(config.head_dim))
            return z.astype(config.dtype)

        y = _norm(config, name="attention_norm")(x)
        k = heads("k", config.num_kv_heads, y, positions)
        v = heads("v", config.num_kv_heads, y, positions)
        if queries is not None:
            x, y = (jnp.take_along_axis(z, queries[..., None], axis=1) for z in (x, y))
            positions = jnp.take_along_axis(positions, queries, axis=1)
        if cache is not None:
            k = jnp.concatenate([cache.keys, k], axis=1)
            v = jnp.concatenate([cache.values, v], axis=1)
            cache = KeyValues(k, v)
        q = heads("q", config.num_heads, y, positions)
        a = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None])
        a = a.reshape(*a.shape[:-2], -1)
        x = x + dense(config.hidden_size, use_bias=config.out_bias, name="o")(a)

        y = _norm(config, name="mlp_norm")(x)
        inner = functools.partial(dense, use_bias=config.mlp_bias)
        up = inner(config.intermediate_size, name="up")(y)
        if config.gated_mlp:
            up *= nn.silu(inner(config.intermediate_size, name="gate")(y))
        else:
            up = nn.gelu(up, approximate=True)
        return x + inner(config.hidden_size, name="down")(up), cache


def _norm(config: TransformerConfig, name: str | None = None) -> nn.Module:
    kind = nn.LayerNorm if config.layer_norm else nn.RMSNorm
    return kind(epsilon=config.norm_eps, dtype=jnp.float32, name=name)


def _rotate(x: jax.Array, positions: jax.Array, frequencies: np.ndarray) -> jax.Array:
    """Turns the halves of each head `[B, L, H, K]` by position times frequency."""
    places = positions[:, :, None, None].astype(jnp.float32)
    angles = places * frequencies[None, None, None]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
