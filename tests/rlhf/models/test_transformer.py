"""The decoder's cache of keys and values, padding on either side, sliding windows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.models import KeyValues, Rope, Transformer, TransformerConfig
from rljax.rlhf.models.config import ACTIVATIONS
from rljax.rlhf.models.reward_model import keep_first_layers

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
GEMMA2 = dataclasses.replace(
    LLAMA,
    windows=(3, 0),
    norm_offset=True,
    post_norms=True,
    attention_softcap=0.5,
    embed_scale=4.0,
)


@pytest.mark.some_cases(1)
@pytest.mark.parametrize(
    "config", [LLAMA, GPT2, GEMMA2], ids=["llama", "gpt2", "gemma2"]
)
def test_a_prefix_in_the_cache_and_the_rest_are_the_whole(config):
    module = Transformer(config)
    ids = np.random.default_rng(0).integers(0, 32, (3, 9), np.int32)
    lengths = np.array([[9], [6], [3]])
    variables = jax.jit(module.init)(jax.random.key(1), ids)

    @jax.jit
    def extend(ids, mask, cache, place):
        return module.apply(variables, ids, mask, cache, place, method="extend")

    right = np.arange(9)[None] < lengths
    # On the left; and with gaps, which take no room either.
    padded = np.arange(9)[None] >= 9 - lengths
    padded[2] = np.isin(np.arange(9), [1, 4, 8])
    padded_ids = np.zeros_like(ids)
    padded_ids[padded] = ids[right]
    whole = np.asarray(jax.jit(module.apply)(variables, ids))
    # With as much room as there are tokens, and with more.
    for given, mask, size in ((ids, None, 9), (padded_ids, padded, 12)):
        # What stands there before the tokens does not matter.
        cache = jax.tree.map(lambda x: x + 1e3, KeyValues.empty(config, 3, size))
        room = None if mask is None else np.pad(mask, ((0, 0), (0, size - 9)))
        hidden = []
        for part in (slice(0, 7), slice(7, 8), slice(8, 9)):
            states, cache = extend(given[:, part], room, cache, part.start)
            hidden.append(states)
        assert cache.keys.shape == (2, 3, 2, 4, size)
        assert cache.values.shape == (2, 3, 2, size, 4)
        together = np.concatenate(hidden, axis=1)
        real = right if mask is None else mask
        np.testing.assert_allclose(together[real], whole[right], rtol=0, atol=1e-5)


def test_a_query_sees_no_farther_than_its_window():
    config = dataclasses.replace(LLAMA, windows=(3, 2))
    module = Transformer(config)
    ids = np.random.default_rng(0).integers(0, 32, (1, 9), np.int32)
    variables = jax.jit(module.init)(jax.random.key(1), ids)
    apply = jax.jit(module.apply)
    hidden = apply(variables, ids)
    # Through two layers the last token sees three more before it, and no others.
    for place, is_seen in ((8, True), (5, True), (4, False), (0, False)):
        changed = ids.copy()
        changed[0, place] += 1
        changed %= 32
        difference = np.abs(apply(variables, changed) - hidden)[0, 8].max()
        assert (difference > 0) == is_seen, place


def test_attention_scores_are_scaled_with_and_without_a_bound():
    ids = np.random.default_rng(0).integers(0, 32, (1, 9), np.int32)
    variables = jax.jit(Transformer(LLAMA).init)(jax.random.key(1), ids)
    # Weights as drawn attend alike to all.
    variables = jax.tree.map(lambda leaf: leaf * 10, variables)

    def hidden(**changes):
        module = Transformer(dataclasses.replace(LLAMA, **changes))
        return jax.jit(module.apply)(variables, ids)

    scaled = hidden(attention_scale=2.0)
    bounded = hidden(attention_scale=2.0, attention_softcap=1e3)
    np.testing.assert_allclose(scaled, bounded, rtol=0, atol=1e-3)
    assert np.abs(scaled - hidden()).max() > 0.1


def test_activations_are_their_formulas():
    x = jnp.float32([-1.0, 2.0])
    for name, expected in {
        "silu": [-0.26894143, 1.7615942],
        "gelu": [-0.15865525, 1.9544997],
        "gelu_tanh": [-0.15880801, 1.9545977],
        "relu": [0.0, 2.0],
    }.items():
        np.testing.assert_allclose(ACTIVATIONS[name](x), expected, rtol=1e-5)


def test_a_factor_of_attention_multiplies_what_is_turned():
    x = jnp.ones((1, 3, 2, 4))
    positions = jnp.arange(3)[None]
    np.testing.assert_allclose(
        Rope(attention_factor=1.5).rotate(x, positions),
        1.5 * Rope().rotate(x, positions),
        rtol=1e-6,
    )


def test_windows_longer_than_a_row_are_none():
    ids = np.zeros((1, 9), np.int32)
    variables = jax.eval_shape(Transformer(LLAMA).init, jax.random.key(1), ids)

    def program(*windows):
        module = Transformer(dataclasses.replace(LLAMA, windows=windows))
        return str(jax.make_jaxpr(module.apply)(variables, ids))

    assert program(9, 0) == program(20, 9) == program() != program(8, 0)


def test_the_first_layers_keep_their_windows():
    variables = {"params": {"trunk": {"layers": {"w": np.arange(2)}}}}
    config, _ = keep_first_layers(GEMMA2, variables, 1)
    assert config == dataclasses.replace(GEMMA2, num_layers=1, windows=(3,))
