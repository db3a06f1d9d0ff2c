"""One transformer decoder, by configuration: Llama 3, Mistral, Qwen, Gemma 2, GPT-2."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

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

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and (type(value) is not int or value < 1):
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
        # Counted in positions: padding, which nobody sees, takes no room in a window.
        places = jnp.arange(start + length)[None] if mask is None else _positions(mask)
        x, cache = self._run(self.layers, x, positions, visible, cache, places)
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
        length = ids.shape[1]
        places = jnp.arange(length)[None]
        visible = jnp.tri(length, dtype=bool)[None]
        x, _ = self._run(first, x, positions, visible, None, places)
        visible = places[:, None] < lengths[:, None, None]
        if (window := self._windows(length)[-1:]) and window[0] < length:
            visible &= places[:, None] >= lengths[:, None, None] - window[0]
        x, _ = self._block(final, x, positions, visible, lengths[:, None] - 1)
        return self.norm(x)[:, 0]

    def logits(self, ids: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Returns logits of each next token, `[B, L, V]` float32, as `__call__` does."""
        hidden = self(ids, mask)
        tied = self.config.tie_embeddings
        logits = self.embed.attend(hidden) if tied else self.lm_head(hidden)
        return _soft_capped(logits, self.config.logit_softcap)

    def _embed(self, ids, mask, start):
        if mask is None:
            positions = jnp.broadcast_to(
                start + jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape
            )
        else:
            positions = _positions(mask)[:, start:]
        x = self.embed(ids)
        if self.config.embed_scale != 1.0:
            x = x * self.config.embed_scale
        if self.config.rope is None:
            x = x + self.position_embed(positions)
        return x.astype(self.config.dtype), positions

    def _run(self, layers, x, positions, visible, cache, places):
        count = jax.tree.leaves(layers)[0].shape[0]
        windows = self._windows(places.shape[1])[:count]
        if windows:
            distances = places[:, -x.shape[1] :, None] - places[:, None]

        def body(x, layer_cache_and_window):
            layer, cache, window = layer_cache_and_window
            mask = visible if window is None else visible & (distances < window)
            return self._block(layer, x, positions, mask, None, cache)

        by_layer = jnp.asarray(windows, jnp.int32) if windows else None
        return jax.lax.scan(body, x, (layers, cache, by_layer))

    def _windows(self, length: int) -> tuple[int, ...]:
        """Returns the window of each layer for so many keys; () if all see all."""
        windows = tuple(window or length for window in self.config.windows)
        return windows if any(window < length for window in windows) else ()

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
                z = config.rope.rotate(z, positions)
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
        a = _attention(config, q, k, v, mask)
        a = a.reshape(*a.shape[:-2], -1)
        a = dense(config.hidden_size, use_bias=config.out_bias, name="o")(a)
        if config.post_norms:
            a = _norm(config, name="attention_post_norm")(a).astype(config.dtype)
        x = x + a

        y = _norm(config, name="mlp_norm")(x)
        inner = functools.partial(dense, use_bias=config.mlp_bias)
        up = inner(config.intermediate_size, name="up")(y)
        usual = "silu" if config.gated_mlp else "gelu_tanh"
        activate = ACTIVATIONS[config.activation or usual]
        if config.gated_mlp:
            up *= activate(inner(config.intermediate_size, name="gate")(y))
        else:
            up = activate(up)
        down = inner(config.hidden_size, name="down")(up)
        if config.post_norms:
            down = _norm(config, name="mlp_post_norm")(down).astype(config.dtype)
        return x + down, cache


class OffsetRMSNorm(nn.Module):
    """RMSNorm that scales by 1 + its parameter, in float32."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[..., D]` float32 of mean square 1, scaled."""
        scale = self.param("scale", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        x = x.astype(jnp.float32)
        square = jnp.mean(x * x, axis=-1, keepdims=True)
        scale = jnp.expand_dims(1.0 + scale, range(x.ndim - 1))
        return x * jax.lax.rsqrt(square + self.epsilon) * scale


def _norm(config: TransformerConfig, name: str | None = None) -> nn.Module:
    if config.norm_offset:
        return OffsetRMSNorm(config.norm_eps, name=name)
    kind = nn.LayerNorm if config.layer_norm else nn.RMSNorm
    return kind(epsilon=config.norm_eps, dtype=jnp.float32, name=name)


def _attention(config: TransformerConfig, q, k, v, mask: jax.Array) -> jax.Array:
    """Returns the values `[B, T, H, K]` that queries see through the mask `[B, T, S]`."""
    scale = config.attention_scale
    if config.attention_softcap is None:
        return jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], scale=scale)
    scale = config.head_dim**-0.5 if scale is None else scale
    grouped = q.reshape(*q.shape[:2], config.num_kv_heads, -1, config.head_dim)
    logits = jnp.einsum(
        "btgrk,bsgk->bgrts", grouped, k, preferred_element_type=jnp.float32
    )
    logits = _soft_capped(logits * scale, config.attention_softcap)
    logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits).astype(v.dtype)
    return jnp.einsum("bgrts,bsgk->btgrk", weights, v).reshape(q.shape)


def _soft_capped(x: jax.Array, bound: float | None) -> jax.Array:
    return x if bound is None else bound * jnp.tanh(x / bound)


def _positions(mask: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
