"""One block of a transformer decoder: attention and an MLP, with what they consist of."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.numerics.linalg import matmul
from rljax.rlhf.models.config import ACTIVATIONS, Lora, TransformerConfig


class KeyValues(NamedTuple):
    """Room for the keys `[num_layers, B, G, K, S]` and values `[num_layers, B, G, S, K]`.

    They are those of S tokens, in the orders in which one query is multiplied by them
    fastest. A block's share of them has no `num_layers`.
    """

    keys: jax.Array
    values: jax.Array

    @staticmethod
    def empty(config: TransformerConfig, batch_size: int, size: int) -> "KeyValues":
        """The cache before the first token, with room for `size`."""
        first = config.num_layers, batch_size, config.num_kv_heads
        width = config.head_dim
        return KeyValues(
            jnp.zeros((*first, width, size), config.dtype),
            jnp.zeros((*first, size, width), config.dtype),
        )

    @property
    def size(self) -> int:
        """How many tokens there is room for: S."""
        return self.values.shape[-2]

    def grown(self, count: int) -> "KeyValues":
        """Returns a cache with room for so many more tokens after the others."""
        more = [(0, 0)] * (self.values.ndim - 2)
        return KeyValues(
            jnp.pad(self.keys, (*more, (0, 0), (0, count))),
            jnp.pad(self.values, (*more, (0, count), (0, 0))),
        )

    def put(self, keys: jax.Array, values: jax.Array, place: Any) -> "KeyValues":
        """Returns a block's cache with those of L tokens, `[B, G, L, K]`, at a place."""
        put = jax.lax.dynamic_update_slice_in_dim
        return KeyValues(
            put(self.keys, keys.swapaxes(2, 3), place, axis=3),
            put(self.values, values, place, axis=2),
        )


class Block(nn.Module):
    """Grouped-query attention and an MLP, each after a norm and added to what came in.

    Attributes:
        few_rows: whether the products are of few rows, by weights stored transposed.

    References:
        Vaswani et al. (2017), https://arxiv.org/abs/1706.03762; Ainslie et al. (2023),
        https://arxiv.org/abs/2305.13245.
    """

    config: TransformerConfig
    few_rows: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        queries: jax.Array | None = None,
        cache: KeyValues | None = None,
        place: Any = 0,
    ) -> tuple[jax.Array, KeyValues | None]:
        """Returns the residual stream `[B, T, D]` of T queries, and the cache with them.

        Args:
            x: `[B, L, D]`, the residual stream.
            positions: `[B, L]` int32, for rotary embeddings.
            mask: `[B or 1, T, S]` bool, the keys that each query may look at; of all L
                queries, none after itself. S is L without a cache.
            queries: `[B, T]` int32, the queries' places in `x`; None for all L.
            cache: keys and values of tokens before these; None keeps none.
            place: where in the cache these L go; an integer, which may be traced.
        """
        config = self.config

        # Dense asks for no other product than of the last axis with the first.
        def product(x, kernel, *_, **__):
            return few_rows_matmul(x, kernel.T) if self.few_rows else matmul(x, kernel)

        dense = functools.partial(
            nn.Dense,
            dtype=config.dtype,
            kernel_init=nn.initializers.normal(0.02),
            dot_general=product,
        )

        def linear(name, width, use_bias, y):
            z = dense(width, use_bias=use_bias, name=name)(y)
            if config.lora is None or name not in config.lora.targets:
                return z
            return z + LowRank(config.lora, width, config.dtype, name=f"{name}_lora")(y)

        def heads(name, count, y, positions):
            z = linear(name, count * config.head_dim, config.qkv_bias, y)
            z = z.reshape(*z.shape[:-1], count, config.head_dim)
            if name == "v":
                return z
            if config.qk_norm:
                z = nn.RMSNorm(epsilon=config.norm_eps, name=f"{name}_norm")(z)
            if config.rope is not None:
                z = config.rope.rotate(z, positions)
            return z.astype(config.dtype)

        y = make_norm(config, name="attention_norm")(x)
        k = heads("k", config.num_kv_heads, y, positions).transpose(0, 2, 1, 3)
        v = heads("v", config.num_kv_heads, y, positions).transpose(0, 2, 1, 3)
        if queries is not None:
            x, y = (jnp.take_along_axis(z, queries[..., None], axis=1) for z in (x, y))
            positions = jnp.take_along_axis(positions, queries, axis=1)
        if cache is not None:
            cache = cache.put(k, v, place)
            k, v = cache.keys.swapaxes(2, 3), cache.values
        q = heads("q", config.num_heads, y, positions)
        causal = queries is None and k.shape[2] == q.shape[1]
        a = _attention(config, q, k, v, mask, causal)
        a = a.reshape(*a.shape[:-2], -1)
        a = linear("o", config.hidden_size, config.out_bias, a)
        if config.post_norms:
            a = make_norm(config, name="attention_post_norm")(a).astype(config.dtype)
        x = x + a

        y = make_norm(config, name="mlp_norm")(x)
        up = linear("up", config.intermediate_size, config.mlp_bias, y)
        usual = "silu" if config.gated_mlp else "gelu_tanh"
        activate = ACTIVATIONS[config.activation or usual]
        if config.gated_mlp:
            up *= activate(linear("gate", config.intermediate_size, config.mlp_bias, y))
        else:
            up = activate(up)
        down = linear("down", config.hidden_size, config.mlp_bias, up)
        if config.post_norms:
            down = make_norm(config, name="mlp_post_norm")(down).astype(config.dtype)
        return x + down, cache


class LowRank(nn.Module):
    """The low-rank term of a weight, zero at first: its second factor is."""

    lora: Lora
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[..., features]` of `x` `[..., D]`."""
        bound = x.shape[-1] ** -0.5  # as PEFT draws the first factor

        def uniform(key, shape):
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

        a = self.param("a", uniform, (x.shape[-1], self.lora.rank))
        b = self.param("b", nn.initializers.zeros, (self.lora.rank, self.features))
        x, a, b = (z.astype(self.dtype) for z in (x, a, b))
        return (x @ a) @ b * self.lora.scale


class OffsetRMSNorm(nn.Module):
    """RMSNorm that scales by 1 + its parameter, in float32."""

    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[..., D]` float32 of mean square 1, scaled."""
        scale = self.param("scale", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        x = x.astype(self.dtype)
        square = jnp.mean(x * x, axis=-1, keepdims=True)
        scale = jnp.expand_dims(1.0 + scale, range(x.ndim - 1))
        return x * jax.lax.rsqrt(square + self.epsilon) * scale


def make_norm(config: TransformerConfig, name: str | None = None) -> nn.Module:
    """Returns the norm of a configuration: RMSNorm, by default."""
    if config.norm_offset:
        return OffsetRMSNorm(config.norm_eps, config.wide_dtype, name=name)
    kind = nn.LayerNorm if config.layer_norm else nn.RMSNorm
    return kind(epsilon=config.norm_eps, dtype=config.wide_dtype, name=name)


def _attention(
    config: TransformerConfig, q, k, v, mask: jax.Array, causal: bool
) -> jax.Array:
    """Returns the values `[B, T, H, K]` that queries see through the mask `[B, T, S]`.

    Queries are `[B, T, H, K]`, keys and values `[B, G, S, K]`. Where it is causal, some
    queries at a time look at the keys up to their last. For a gradient the weights are
    computed once more: kept, they would take more memory than all else, and more time to
    write and read than to compute.
    """
    length = q.shape[1]
    size = max(128, -(-length // 8)) if causal else length
    parts = []
    for start in range(0, length, size):
        seen = start + size if causal else k.shape[2]
        queries = slice(start, start + size)
        look = jax.checkpoint(functools.partial(_look, config))
        keys, values = k[:, :, :seen], v[:, :, :seen]
        part = look(q[:, queries], keys, values, mask[:, queries, :seen])
        parts.append(part)
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def _look(config: TransformerConfig, q, k, v, mask: jax.Array) -> jax.Array:
    scale = config.attention_scale or config.head_dim**-0.5
    num_rows, num_queries, _, width = q.shape
    heads = config.num_kv_heads, config.num_heads // config.num_kv_heads
    # Heads first, and those that share keys together: a CPU multiplies these fastest.
    q = q.reshape(num_rows, num_queries, *heads, width).transpose(0, 2, 3, 1, 4)
    q = q.reshape(num_rows, heads[0], -1, width)
    logits = jnp.einsum(
        "bgtk,bgsk->bgts", q, k, preferred_element_type=config.wide_dtype
    )
    logits = soft_capped(logits * scale, config.attention_softcap)
    mask = jnp.tile(mask, (1, heads[1], 1))[:, None]
    logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits).astype(v.dtype)
    seen = jnp.einsum("bgts,bgsk->bgtk", weights, v)
    seen = seen.reshape(num_rows, *heads, num_queries, width)
    return seen.transpose(0, 3, 1, 2, 4).reshape(num_rows, num_queries, -1, width)


def few_rows_matmul(x: jax.Array, transposed: jax.Array) -> jax.Array:
    """Returns `[..., N]`, few rows `[..., D]` times a weight that is stored as `[N, D]`.

    With the weight as its first factor XLA's product of a CPU is two to three times as
    fast as with the rows first, nearly as fast as that of large matrices.
    """
    rows = x.reshape(-1, x.shape[-1])
    product = jax.lax.dot_general(transposed, rows, (((1,), (1,)), ((), ())))
    # XLA would turn the product around, lest it be transposed.
    product = jax.lax.optimization_barrier(product).T
    return product.reshape(*x.shape[:-1], -1)


def soft_capped(x: jax.Array, bound: float | None) -> jax.Array:
    """Returns `x` within the bound, by tanh; None bounds nothing."""
    return x if bound is None else bound * jnp.tanh(x / bound)
