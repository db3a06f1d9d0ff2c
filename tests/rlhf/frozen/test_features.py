"""Features are what a reward model of the first blocks reads, and are computed once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.data.rows import Rankings
from rljax.rlhf.frozen.features import different_texts, frozen_features
from rljax.rlhf.models import (
    LoraOnly,
    RewardModel,
    Transformer,
    TransformerConfig,
    keep_first_layers,
)
from rljax.rlhf.models.trainable import adapt

LLAMA = TransformerConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    max_length=24,
)
GPT2 = dataclasses.replace(LLAMA, rope=None, layer_norm=True, gated_mlp=False)
GEMMA2 = dataclasses.replace(
    LLAMA, windows=(3, 0, 4), norm_offset=True, post_norms=True, embed_scale=4.0
)


@functools.cache
def model(config):
    module = RewardModel(config, pad_id=0)
    row = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    variables = jax.jit(module.init)(jax.random.key(0), *row)
    drawn = jax.random.split(jax.random.key(1), 99)
    leaves, tree = jax.tree.flatten(variables["params"])
    moved = [
        # Norms' parameters too; as drawn, all texts would be alike.
        leaf * (3 if leaf.ndim > 2 else 1) + 0.1 * jax.random.normal(k, leaf.shape)
        for k, leaf in zip(drawn, leaves, strict=False)
    ]
    return module, variables | {"params": tree.unflatten(moved)}


def rows(num=9):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 25, num)
    lengths[0] = 24
    return rng.integers(0, 32, (num, 24)), lengths


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("config", [LLAMA, GPT2, GEMMA2])
def test_features_are_what_the_first_blocks_reward_model_reads(config):
    module, variables = model(config)
    ids, lengths = rows()
    found = frozen_features(module, variables, ids, lengths)
    assert found.shape == (3, 9, 16)
    assert found.dtype == np.float32
    for k in (1, 2, 3):
        shorter, first = keep_first_layers(config, variables, k)
        trunk = {"params": first["params"]["trunk"]}
        row = jnp.int32(ids), jnp.int32(lengths)
        read = functools.partial(Transformer(shorter).apply, method=Transformer.last)
        expected = jax.jit(read)(trunk, *row)
        np.testing.assert_allclose(found[k - 1], expected, atol=2e-5)
    some = frozen_features(module, variables, ids, lengths, layers=(2,))
    np.testing.assert_allclose(some[0], found[1], atol=2e-5)


@pytest.mark.slow
def test_the_mean_is_over_a_texts_tokens_before_the_norm():
    module, variables = model(GEMMA2)
    trunk, params = Transformer(GEMMA2), {"params": variables["params"]["trunk"]}
    ids, lengths = rows(4)
    found = frozen_features(trunk, params, ids, lengths, pooling="mean")
    for row, length in enumerate(lengths):
        # No token sees a later one: each is the last of a shorter text.
        sizes = jnp.arange(1, length + 1)
        states = trunk.apply(
            params,
            jnp.tile(jnp.int32(ids[row]), (length, 1)),
            sizes,
            "last",
            method="after_each_layer",
        )
        scale = 1 + np.asarray(params["params"]["norm"]["scale"], np.float64)
        mean = np.asarray(states, np.float64).mean(axis=1)
        expected = mean / np.sqrt((mean**2).mean(axis=1, keepdims=True) + 1e-5) * scale
        np.testing.assert_allclose(found[:, row], expected, atol=5e-5)
    reward = frozen_features(module, variables, ids, lengths, pooling="mean")
    np.testing.assert_allclose(reward, found, atol=1e-6)


@pytest.mark.slow
def test_neither_padding_nor_the_batch_nor_devices_matter():
    module, variables = model(LLAMA)
    ids, lengths = rows(7)
    found = frozen_features(module, variables, ids, lengths, max_tokens=24)
    other = np.where(np.arange(24)[None] < lengths[:, None], ids, 31)
    order = np.random.default_rng(1).permutation(7)
    again = frozen_features(
        module,
        variables,
        other[order],
        lengths[order],
        max_tokens=96,
        devices=jax.devices()[:1],
    )
    np.testing.assert_allclose(again, found[:, order], atol=2e-5)


@pytest.mark.slow
def test_an_adapted_model_has_its_low_rank_terms():
    module, _ = model(LLAMA)
    adapted = adapt(module, LoraOnly())
    row = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    variables = jax.jit(adapted.init)(jax.random.key(0), *row)
    ids, lengths = rows(3)
    before = frozen_features(adapted, variables, ids, lengths)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    after = frozen_features(adapted, variables, ids, lengths)
    assert np.abs(after - before).max() > 0.1


def test_a_second_call_finds_them(tmp_path):
    module, variables = model(LLAMA)
    ids, lengths = rows()
    batches = []

    def features(ids=ids, variables=variables, **options):
        batches.clear()
        return frozen_features(
            module,
            variables,
            ids,
            lengths,
            cache=tmp_path / "cache",
            on_batch=batches.append,
            **options,
        )

    first = features(layers=(1, 3))
    assert sum(counts.pairs for counts in batches) == 9
    assert sum(counts.tokens for counts in batches) == lengths.sum()
    np.testing.assert_array_equal(features(layers=(1, 3)), first)
    assert not batches
    # The head, and what stands in the padding, are not read.
    padded = np.where(np.arange(24)[None] < lengths[:, None], ids, 5)
    headless = variables["params"] | {"head": {"kernel": jnp.ones((16, 1))}}
    features(padded, variables | {"params": headless}, layers=(1, 3))
    assert not batches
    trunk = variables["params"]["trunk"]
    norm = {"norm": {"scale": 2 * trunk["norm"]["scale"]}}
    changed = variables | {"params": variables["params"] | {"trunk": trunk | norm}}
    for options in (
        {"ids": (ids + 1) % 32},
        {"variables": changed},
        {"layers": (1, 2)},
        {"pooling": "mean"},
    ):
        features(**{"layers": (1, 3)} | options)
        assert batches, options
    assert len(list((tmp_path / "cache").iterdir())) == 5  # and nothing half written


@pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
def test_a_damaged_file_is_computed_again(tmp_path, damage):
    module, variables = model(LLAMA)
    ids, lengths = rows(3)

    def features():
        return frozen_features(module, variables, ids, lengths, cache=tmp_path)

    first = features()
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"cut": data[:-40], "bit": data, "empty": b""}[damage])
    with pytest.warns(UserWarning, match="damaged"):
        np.testing.assert_array_equal(features(), first)
    np.testing.assert_array_equal(features(), first)


def test_a_file_that_cannot_be_written_costs_no_features(tmp_path, monkeypatch):
    module, variables = model(LLAMA)
    ids, lengths = rows(3)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rljax.rlhf.frozen.features.flush_to_disk", full)
    with pytest.warns(UserWarning, match="No space left"):
        found = frozen_features(module, variables, ids, lengths, cache=tmp_path)
    assert np.isfinite(found).all()
    assert not list(tmp_path.iterdir())


def test_each_text_of_pairs_comes_once():
    ids = np.array(
        [[[1, 2, 9], [3, 0, 0]], [[3, 9, 9], [1, 2, 8]], [[3, 0, 0], [1] * 3]]
    )
    lengths = np.array([[2, 1], [1, 2], [2, 3]])  # [3, 0] is not [3]
    texts = different_texts(Rankings.of(ids, lengths))
    assert len(texts.ids) == 4
    for i in range(3):
        for j in range(2):
            row, size = texts.ids[texts.pairs[i, j]], lengths[i, j]
            assert texts.lengths[texts.pairs[i, j]] == size
            np.testing.assert_array_equal(row[:size], ids[i, j, :size])
            assert not row[size:].any()
    with pytest.raises(ValueError, match="rankings of 3"):
        different_texts(Rankings.of(np.ones((1, 3, 2)), np.ones((1, 3))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (4,)}, r"in \[1, 3\]"),
        ({"layers": (2, 1)}, "ascending"),
        ({"lengths": np.array([3, 0])}, "text 1 has 0"),
        ({"lengths": np.array([25, 1])}, "text 0 has 25"),
        ({"ids": np.full((2, 24), 32)}, "token 32"),
        ({"ids": np.zeros((0, 24)), "lengths": np.zeros(0)}, "no texts"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
    ],
)
def test_what_cannot_be_computed_is_refused(changes, message):
    module, variables = model(LLAMA)
    arguments = {"ids": np.ones((2, 24)), "lengths": np.array([1, 2])} | changes
    with pytest.raises(ValueError, match=message):
        frozen_features(module, variables, **arguments)


def test_a_feature_that_is_not_finite_is_an_error():
    module, variables = model(LLAMA)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, variables)
    with pytest.raises(ValueError, match="text 0 has a feature that is not finite"):
        frozen_features(module, broken, *rows(2))
