"""The decoder's cache of keys and values."""

import dataclasses

import jax
import numpy as np
import pytest

from rljax.rlhf.models.transformer import KeyValues, Transformer, TransformerConfig

LLAMA = TransformerConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    max_length=16,
)
GPT2 = dataclasses.replace(LLAMA, rope=None, layer_norm=True, gated_mlp=False)


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("padded", ["right", "left"])
@pytest.mark.parametrize("prefix", [1, 5, 8])
def test_a_prefix_in_the_cache_and_the_rest_are_the_whole(config, padded, prefix):
    module = Transformer(config)
    ids = np.random.default_rng(0).integers(0, 32, (3, 9), np.int32)
    lengths = np.array([[9], [6], [3]])
    mask = None if padded == "right" else np.arange(9)[None] >= 9 - lengths
    variables = jax.jit(module.init)(jax.random.key(1), ids)

    @jax.jit
    def extend(ids, mask, cache):
        return module.apply(variables, ids, mask, cache, method=Transformer.extend)

    whole = np.asarray(jax.jit(module.apply)(variables, ids, mask))
    cache = KeyValues.empty(config, 3)
    hidden = []
    for part in (slice(0, prefix), slice(prefix, 9)):
        seen = None if mask is None else mask[:, : part.stop]
        states, cache = extend(ids[:, part], seen, cache)
        hidden.append(states)
    assert cache.keys.shape == cache.values.shape == (2, 3, 9, 2, 4)
    together = np.concatenate(hidden, axis=1)
    real = np.ones((3, 9), bool) if mask is None else mask
    np.testing.assert_allclose(together[real], whole[real], rtol=0, atol=1e-5)
