"""Attention over long rows, a part of the queries at a time, against token by token."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.models import Transformer, TransformerConfig
from rljax.rlhf.models.block import KeyValues

CONFIG = TransformerConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=4,
    num_kv_heads=2, head_dim=4, max_length=300,
)  # fmt: skip
WAYS = {
    "plain": {},
    "windows": {"windows": (0, 140)},
    "bounded": {"attention_softcap": 0.5, "attention_scale": 0.3},
}


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("way", WAYS)
def test_a_long_row_is_the_same_in_parts_with_a_cache(way):
    config = dataclasses.replace(CONFIG, **WAYS[way])
    module = Transformer(config)
    ids = jax.random.randint(jax.random.key(1), (2, 300), 0, 32)
    params = jax.jit(module.init)(jax.random.key(0), ids[:, :1])
    params = jax.tree.map(lambda x: 8 * x if x.ndim > 1 else x, params)
    whole = jax.jit(module.apply)(params, ids)
    cache, parts = KeyValues.empty(config, 2, 300), []
    extend = jax.jit(functools.partial(module.apply, method="extend"))
    for start in (0, 100, 200):
        part = ids[:, start : start + 100]
        hidden, cache = extend(params, part, None, cache, start)
        parts.append(hidden)
    np.testing.assert_allclose(whole, jnp.concatenate(parts, axis=1), atol=2e-4)
    plain = jax.jit(Transformer(CONFIG).apply)(params, ids)
    assert way == "plain" or float(jnp.abs(plain - whole).max()) > 1e-2
