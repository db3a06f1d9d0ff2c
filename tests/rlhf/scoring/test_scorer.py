"""A text's score is its own: whatever is scored beside it, and however it is padded."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.rlhf.data.encoding import EncodingConfig
from rljax.rlhf.data.pairs import TokenPair, Tokens
from rljax.rlhf.data.tokenizer import ByteTokenizer
from rljax.rlhf.models import Rope, TransformerConfig
from rljax.rlhf.models.reward_model import (
    RewardModel,
    keep_first_layers,
    stack_ensemble,
)
from rljax.rlhf.row_files.batching import buckets
from rljax.rlhf.scoring.scorer import Scorer

LONGEST = 24
CONFIG = TransformerConfig(
    vocab_size=258,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    max_length=64,
    qk_norm=True,
)
LEARNED = dataclasses.replace(CONFIG, rope=None, layer_norm=True, gated_mlp=False)
ENCODING = EncodingConfig(max_length=LONGEST, end_ids=(257,))
TEXTS = st.text(st.characters(codec="utf-8", max_codepoint=300), max_size=9)


@functools.cache
def model(config=CONFIG):
    """A reward model with scores of about unit scale."""
    module = RewardModel(config)
    ids = jnp.zeros((1, 8), jnp.int32)
    variables = jax.jit(module.init)(jax.random.key(1), ids, jnp.ones(1, jnp.int32))
    # At a hundredth of the usual scale every text would score alike.
    variables = variables | {
        "params": jax.tree.map(
            lambda p: p * 10 if p.ndim > 2 else p, variables["params"]
        )
    }
    return module, variables


@functools.partial(jax.jit, static_argnums=0, static_argnames="method")
def apply(module, variables, *inputs, method=None):
    return module.apply(variables, *inputs, method=method)


@functools.cache
def scorer(max_tokens=64, num_devices=1, config=CONFIG):
    return Scorer(
        *model(config),
        ByteTokenizer(),
        ENCODING,
        max_tokens=max_tokens,
        window=8,
        devices=jax.devices()[:num_devices],
    )


@given(
    st.lists(st.tuples(TEXTS, TEXTS.filter(bool)), min_size=1, max_size=12),
    st.sampled_from([0, 7, 257]),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_a_score_depends_on_the_text_alone(pairs, pad_id, left):
    together = scorer().score(pairs)
    backward = scorer(32).score(pairs[::-1])[::-1]
    apart = np.concatenate([scorer().score([pair]) for pair in pairs])
    halved = scorer(num_devices=2).score(pairs)
    for other in (backward, apart, halved):
        np.testing.assert_allclose(other, together, rtol=0, atol=1e-5)
    for (prompt, completion), score in zip(pairs, together, strict=True):
        row = [*(prompt + completion).encode(), 257]
        row = row[-LONGEST:]
        padding = [pad_id] * (LONGEST - len(row))
        ids = padding + row if left else row + padding
        mask = [True] * len(row) + [False] * len(padding)
        mask = mask[::-1] if left else mask
        tokens = Tokens(np.array([ids], np.int32), np.array([mask]))
        padded = apply(*model(), tokens, method=RewardModel.of_tokens)
        np.testing.assert_allclose(padded[0], score, rtol=0, atol=1e-5)


def test_scores_differ_between_texts():
    scores = scorer().score([("a", "b"), ("a", "c"), ("ab", "c"), ("a", "bc")])
    assert scores.dtype == np.float32
    assert np.ptp(scores) > 0.1
    assert abs(scores[2] - scores[3]) < 1e-6  # the same bytes


@pytest.mark.slow
def test_learned_positions_do_not_shift_under_left_padding():
    module, variables = model(LEARNED)
    ids, lengths = jnp.array([[5, 6, 7, 0, 0]], jnp.int32), jnp.array([3], jnp.int32)
    expected = apply(module, variables, ids, lengths)
    left = Tokens(np.roll(ids, 2, axis=1), np.arange(5)[None] >= 2)
    score = apply(module, variables, left, method=RewardModel.of_tokens)
    np.testing.assert_allclose(score, expected, rtol=0, atol=1e-5)


def test_the_last_tokens_shortcut_is_the_whole_computation():
    module, variables = model()
    ids = np.random.default_rng(0).integers(0, 258, (3, 12), np.int32)
    lengths = np.array([12, 5, 1], np.int32)
    mask = np.arange(12)[None] < lengths[:, None]
    both = Tokens(ids, mask)
    tokens = apply(module, variables, both, method=RewardModel.per_token)
    fast = apply(module, variables, ids, lengths)
    whole = np.asarray(tokens)[np.arange(3), lengths - 1]
    np.testing.assert_allclose(fast, whole, rtol=0, atol=1e-5)
    assert not np.asarray(tokens)[~mask].any()


def test_a_second_pass_over_new_texts_compiles_nothing():
    ours = Scorer(*model(), ByteTokenizer(), ENCODING, max_tokens=64, window=8)
    texts = [("p" * i, "c") for i in range(LONGEST - 1)]
    first = ours.detail(texts)
    assert 1 <= first.compile_count <= len(buckets(LONGEST))
    second = ours.detail([("q" * i, "d") for i in range(LONGEST - 1)])
    assert second.compile_count == 0


def test_details_say_what_became_of_each_pair():
    detail = scorer().detail([("p" * 50, "c"), ("p", "cc")])
    np.testing.assert_array_equal(detail.num_tokens, [LONGEST, 4])
    np.testing.assert_array_equal(detail.num_cut, [50 + 2 - LONGEST, 0])
    assert detail.bucket[0] == LONGEST
    assert 0 <= detail.padding_share < 1


def test_nothing_gives_nothing():
    assert scorer().score([]).shape == (0,)


@pytest.mark.parametrize(
    "pair",
    [
        ("p", ""),
        ("p", "c" * 50),
        ("p", "\ud800"),
        "pc",
        ("p",),
        ("p", [{"role": "assistant", "content": "c"}]),
        ("p", "c", {"tools": [{}]}),
        TokenPair([1], []),
        TokenPair([1], [258]),
        TokenPair([1], [-1]),
        TokenPair([1], [0.5]),
    ],
)
def test_a_pair_that_cannot_be_scored_is_named(pair):
    with pytest.raises(ValueError, match="pair 9: "):
        scorer().score([("p", "c")] * 9 + [pair])
    batches = []
    windows = [("first", [("p", "c"), pair]), ("second", [("p", "c")])]
    found = scorer().stream(windows, lambda *batch: batches.append(batch))
    (one, rows, counts), (two, (alone,), _) = found
    assert (one, two) == ("first", "second")
    assert rows[1].error
    assert rows[0].score == pytest.approx(alone.score, abs=1e-6)
    assert (counts.pairs, counts.tokens) == (1, 3)
    assert counts.padded_tokens > 3
    assert [name for name, _ in batches] == ["first", "second"]
    assert batches[0][1].tokens == counts.tokens


def test_the_scale_normalizes():
    module, variables = model()
    scaled = variables | {"scale": {"mean": jnp.float32(2), "std": jnp.float32(4)}}
    ours = Scorer(module, scaled, ByteTokenizer(), ENCODING)
    pairs = [("a", "b"), ("c", "d")]
    expected = (scorer().score(pairs) - 2) / 4
    np.testing.assert_allclose(ours.score(pairs), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_an_ensembles_members_score_as_they_do_alone():
    module, variables = model()
    halved = jax.tree.map(lambda p: p / 2, variables["params"])
    halved = variables | {"params": halved}
    ensemble = stack_ensemble([variables, halved])
    mean = Scorer(module, ensemble, ByteTokenizer(), ENCODING).score([("a", "b")])
    each = [
        Scorer(module, member, ByteTokenizer(), ENCODING).score([("a", "b")])
        for member in (variables, halved)
    ]
    np.testing.assert_allclose(mean, np.mean(each, axis=0), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_bfloat16_scores_are_near():
    module, variables = model()
    ids = jax.random.randint(jax.random.key(0), (8, 12), 0, 258)
    lengths = jnp.arange(5, 13)
    expected = apply(module, variables, ids, lengths)
    half = RewardModel(dataclasses.replace(CONFIG, dtype=jnp.bfloat16))
    scores = apply(half, variables, ids, lengths)
    assert scores.dtype == jnp.float32
    assert np.abs(scores - expected).max() > 1e-6  # or it was float32 all along
    np.testing.assert_allclose(scores, expected, rtol=0, atol=0.1)


def test_a_cut_trunk_is_the_first_layers():
    module, variables = model()
    config, shorter = keep_first_layers(module.config, variables, 1)
    assert config.num_layers == 1
    ids, lengths = np.array([[5, 6]], np.int32), np.array([2], np.int32)
    score = apply(RewardModel(config), shorter, ids, lengths)
    assert np.isfinite(score).all()
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        keep_first_layers(module.config, variables, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding": dataclasses.replace(ENCODING, max_length=65)}, "at most"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"window": 0}, "window must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    arguments = {"tokenizer": ByteTokenizer(), "encoding": ENCODING} | changes
    with pytest.raises(ValueError, match=message):
        Scorer(*model(), **arguments)


def test_a_vocabulary_that_is_too_small_is_refused():
    module, variables = model()
    small = RewardModel(dataclasses.replace(module.config, vocab_size=200))
    with pytest.raises(ValueError, match="258 ids"):
        Scorer(small, variables, ByteTokenizer(), ENCODING)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers"),
        ({"num_kv_heads": 3}, "num_kv_heads must divide"),
        ({"head_dim": 5, "rope": Rope()}, "head_dim must be even"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)
