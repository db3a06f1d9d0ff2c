"""One transformer decoder, by configuration: Llama 3, Mistral, Qwen, Gemma 2, GPT-2."""

import functools
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.numerics.sharding import split_rows
from rljax.rlhf.models.block import (
    Block,
    few_rows_matmul,
    make_norm,
    soft_capped,
)
from rljax.rlhf.models.config import TransformerConfig


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
        self.norm = make_norm(config)
        if not config.tie_embeddings:
            # Made only where `logits` is what initializes: a reward model has none.
            self.lm_head = nn.Dense(config.vocab_size, use_bias=False, kernel_init=init)

    def __call__(self, ids: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Returns hidden states after the last norm, `[B, L, D]` float32.

        Args:
            ids: `[B, L]` int32.
            mask: `[B, L]` bool, true at real tokens; None if padding is on the right.
        """
        length = ids.shape[1]
        visible = jnp.tri(length, dtype=bool)[None]
        # Counted in positions: padding, which nobody sees, takes no room in a window.
        places = jnp.arange(length)[None]
        if mask is not None:
            visible &= mask[:, None]
            places = _positions(mask)
        positions = jnp.broadcast_to(places.astype(jnp.int32), ids.shape)
        x = self._embed(ids, positions)
        x, _ = self._run(self.layers, x, positions, visible, None, places)
        return self.norm(x)

    def extend(
        self,
        ids: jax.Array,
        mask: jax.Array | None,
        cache: Any,
        place: Any = 0,
        layers: tuple[Any, ...] | None = None,
    ) -> tuple[jax.Array, Any]:
        """Returns hidden states `[B, L, D]` float32 of new tokens, and the cache with them.

        Args:
            ids: `[B, L]` int32, the new tokens.
            mask: `[B, S]` bool, of the cache's places: true where a token is real, or will
                be; None if padding is on the right.
            cache: `KeyValues` of the tokens before, with room for S.
            place: where in the cache the new tokens go, an integer that may be traced;
                they see what stands up to themselves.
            layers: the blocks' parameters one by one, as `take_apart` returns them, which
                makes a loop over tokens fast; the cache is then unstacked, too.
        """
        length, one_by_one = ids.shape[1], layers is not None
        size = cache[0].size if one_by_one else cache.size
        places = jnp.arange(size)[None] if mask is None else _positions(mask)
        positions = jax.lax.dynamic_slice_in_dim(places, place, length, axis=1)
        positions = jnp.broadcast_to(positions.astype(jnp.int32), ids.shape)
        visible = jnp.arange(size)[None] <= place + jnp.arange(length)[:, None]
        visible = visible[None] if mask is None else visible[None] & mask[:, None]
        x = self._embed(ids, positions)
        x, cache = self._run(
            layers if one_by_one else self.layers,
            x,
            positions,
            visible,
            cache,
            places,
            place,
        )
        return self.norm(x), cache

    def after_each_layer(
        self, ids: jax.Array, lengths: jax.Array, pooling: Literal["last", "mean"]
    ) -> jax.Array:
        """Returns hidden states `[num_layers, B, D]` float32 of rows, one after each block.

        Not normalized. `pooling` takes each row's last token, or the mean over its tokens.

        Args:
            ids: `[B, L]` int32, padded on the right.
            lengths: `[B]` int32, at least 1.
            pooling: how a row's tokens become one.
        """
        x, positions = self._embed_from_start(ids)
        length = ids.shape[1]
        places = jnp.arange(length)[None]
        if pooling == "last":
            weights = places == lengths[:, None] - 1
        else:
            weights = (places < lengths[:, None]) / lengths[:, None]
        weights = weights.astype(self.config.wide_dtype)
        windows = self._windows(length) or (length,) * self.config.num_layers

        def body(x, layer_and_window):
            layer, window = layer_and_window
            visible = jnp.tri(length, dtype=bool)
            visible &= places.T - places < window
            x, _ = self._block(layer, x, positions, visible[None])
            return x, jnp.einsum("bl,bld->bd", weights, x.astype(weights.dtype))

        return jax.lax.scan(body, x, (self.layers, jnp.asarray(windows)))[1]

    def last(self, ids: jax.Array, lengths: jax.Array) -> jax.Array:
        """Returns hidden states of each row's last token alone, `[B, D]` float32.

        The same as `self(ids)[row, lengths - 1]`, for less: of the last block only the
        keys and values are computed for every token.

        Args:
            ids: `[B, L]` int32, padded on the right.
            lengths: `[B]` int32, at least 1.
        """
        x, positions = self._embed_from_start(ids)
        layers = self.layers
        if self.config.fixed_layers == self.config.num_layers:
            layers = jax.lax.stop_gradient(layers)
        first = jax.tree.map(lambda p: p[:-1], layers)
        final = jax.tree.map(lambda p: p[-1], layers)
        length = ids.shape[1]
        places = jnp.arange(length)[None]
        visible = jnp.tri(length, dtype=bool)[None]
        x, _ = self._run(first, x, positions, visible, None, places)
        visible = places[:, None] < lengths[:, None, None]
        if (window := self._windows(length)[-1:]) and window[0] < length:
            visible &= places[:, None] >= lengths[:, None, None] - window[0]
        x, _ = self._block(final, x, positions, visible, lengths[:, None] - 1)
        return self.norm(x)[:, 0]

    def trunk(self, ids: jax.Array) -> jax.Array:
        """Returns the residual stream `[B, L, D]` after the first `fixed_layers` blocks.

        Args:
            ids: `[B, L]` int32, padded on the right.
        """
        fixed = self.config.fixed_layers
        x, positions = self._embed_from_start(ids)
        layers = jax.tree.map(lambda p: p[:fixed], self.layers)
        return self._run_causal(jax.lax.stop_gradient(layers), x, positions)

    def after_trunk(self, x: jax.Array) -> jax.Array:
        """Returns hidden states as `self(ids)` does, of what `trunk` has computed.

        Args:
            x: `[B, L, D]`.
        """
        fixed = self.config.fixed_layers
        positions = jnp.broadcast_to(
            jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2]
        )
        layers = jax.tree.map(lambda p: p[fixed:], self.layers)
        return self.norm(self._run_causal(layers, x, positions, fixed))

    def logits(self, ids: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Returns logits of each next token, `[B, L, V]` float32, as `__call__` does."""
        return self.unembed(self(ids, mask))

    def unembed(self, hidden: jax.Array, matrix: jax.Array | None = None) -> jax.Array:
        """Returns logits `[..., V]` float32 of hidden states `[..., D]`.

        A `matrix` `[V, D]` is that of the logits, for few rows.
        """
        if matrix is not None:
            logits = few_rows_matmul(hidden, matrix)
        elif self.config.tie_embeddings:
            logits = self.embed.attend(hidden)
        else:
            logits = self.lm_head(hidden)
        return split_rows(soft_capped(logits, self.config.logit_softcap))

    def _embed_from_start(self, ids):
        positions = jnp.broadcast_to(
            jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape
        )
        return self._embed(ids, positions), positions

    def _embed(self, ids, positions):
        x = self.embed(ids)
        if self.config.embed_scale != 1.0:
            x = x * self.config.embed_scale
        if self.config.rope is None:
            x = x + self.position_embed(positions)
        return split_rows(x.astype(self.config.dtype))

    def _run_causal(self, layers, x, positions, first=0):
        length = x.shape[1]
        visible = jnp.tri(length, dtype=bool)[None]
        places = jnp.arange(length)[None]
        return self._run(layers, x, positions, visible, None, places, first=first)[0]

    def _run(self, layers, x, positions, visible, cache, places, place=0, first=0):
        """Runs some blocks, of which `first` is the number of the first one."""
        one_by_one = isinstance(layers, tuple)
        count = len(layers) if one_by_one else jax.tree.leaves(layers)[0].shape[0]
        windows = self._windows(places.shape[1])[first : first + count]
        fixed = min(max(self.config.fixed_layers - first, 0), count)
        if windows:
            distances = positions[..., None] - places[:, None]

        def body(x, layer_cache_and_window):
            layer, cache, window = layer_cache_and_window
            mask = visible if window is None else visible & (distances < window)
            block = Block(self.config, few_rows=one_by_one, parent=None)
            rest = x, positions, mask, None, cache, place
            x, cache = block.apply({"params": layer}, *rest)
            # Where parameters are divided, too, their parts come to the rows.
            return split_rows(x), cache

        if one_by_one:
            after = []
            for i, (layer, before) in enumerate(zip(layers, cache, strict=True)):
                one = _transposed(layer), before, windows[i] if windows else None
                x, put = body(x, one)
                after.append(put)
            return x, tuple(after)
        if self.config.remat:
            body = jax.checkpoint(body, prevent_cse=False)
        by_layer = jnp.asarray(windows, jnp.int32) if windows else None
        over = layers, cache, by_layer
        if not fixed:
            return jax.lax.scan(body, x, over)
        # Two loops: what the first computes is not kept for a gradient.
        first = jax.tree.map(lambda p: p[:fixed], over)
        x, before = jax.lax.scan(body, x, jax.lax.stop_gradient(first))
        x, after = jax.lax.scan(body, x, jax.tree.map(lambda p: p[fixed:], over))
        cache = jax.tree.map(lambda *parts: jnp.concatenate(parts), before, after)
        return x, cache

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


class TakenApart(NamedTuple):
    """Parameters as a loop over tokens is fast with them.

    Attributes:
        layers: those of the blocks, one by one, with weights stored transposed.
        unembedding: `[V, D]`, the matrix of the logits.
    """

    layers: tuple[Any, ...]
    unembedding: jax.Array


def take_apart(params: Any) -> TakenApart:
    """Returns the parameters of a language model as `extend` and `unembed` take them."""
    layers = _transposed(unstack(params["layers"]))
    if "lm_head" in params:
        return TakenApart(layers, params["lm_head"]["kernel"].T)
    return TakenApart(layers, params["embed"]["embedding"])


def _transposed(layers: Any) -> Any:
    """Returns blocks' parameters with weights transposed, or turned back again."""

    def turn(path, leaf):
        return leaf.T if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(turn, layers)


def unstack(tree: Any) -> tuple[Any, ...]:
    """Returns the parts, along their first axis, of a tree's leaves: `[N, ...]` each."""
    count = jax.tree.leaves(tree)[0].shape[0]
    return tuple(jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count))


def _positions(mask: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
