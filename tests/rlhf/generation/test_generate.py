"""Completions against one forward pass per token, of each row by itself."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.generation import Truncation, decoding, generate
from rljax.rlhf.generation.sampling import exponentials, row_words
from rljax.rlhf.models import Transformer, TransformerConfig
from rljax.rlhf.models.log_probs import token_log_probs

LLAMA = TransformerConfig(
    vocab_size=11, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=4,
    num_kv_heads=2, head_dim=4, max_length=24, tie_embeddings=True,
)  # fmt: skip
GPT2 = dataclasses.replace(
    LLAMA, rope=None, layer_norm=True, gated_mlp=False, qkv_bias=True, out_bias=True
)
GEMMA2 = dataclasses.replace(
    LLAMA, windows=(3, 0), norm_offset=True, post_norms=True, attention_softcap=2.0,
    logit_softcap=4.0, embed_scale=4.0, tie_embeddings=False,
)  # fmt: skip
CONFIGS = {"llama": LLAMA, "gpt2": GPT2, "gemma2": GEMMA2}
LENGTHS = np.array([1, 6, 3, 4])
WIDTH, STEPS, STOPS = 6, 8, (2, 7)
TRUNCATION = Truncation(top_k=9, top_p=0.95)
WAYS = {
    "greedy": {"greedy": True},
    "sampled": {"temperature": 0.8},
    "truncated": {"temperature": 1.2, "truncation": TRUNCATION, "stop_ids": STOPS},
}


@functools.cache
def model(name):
    """A model of which the next token follows from those before it."""
    module = Transformer(CONFIGS[name])
    ids = jnp.zeros((1, 4), jnp.int32)
    init = jax.jit(functools.partial(module.init, method="logits"))
    params = init(jax.random.key(1), ids)["params"]
    return module, jax.tree.map(lambda x: 12 * x if x.ndim > 1 else x, params)


@functools.partial(jax.jit, static_argnums=(0, 5), static_argnames=("width",))
def run(module, params, prompts, lengths, keys, way, width=WIDTH):
    # What stands in the padding does not matter.
    padding = jnp.arange(width)[None] < width - lengths[:, None]
    prompts = jnp.where(padding, 10, prompts[:, WIDTH - width :])
    options = WAYS[way]
    return generate(
        module, params, prompts, lengths, keys, max_new_tokens=STEPS, **options
    )


@functools.partial(jax.jit, static_argnums=0)
def logits_of(module, params, ids):
    return module.apply({"params": params}, ids, method="logits")


noise_of = jax.jit(exponentials, static_argnums=2)


def prompts_and_keys(num_rows=4):
    rng = np.random.default_rng(0)
    lengths = np.resize(LENGTHS, num_rows)
    prompts = rng.integers(0, 10, (num_rows, WIDTH), np.int32)
    return prompts, lengths, jax.random.split(jax.random.key(2), num_rows)


def one_by_one(module, params, prompt, words, way):
    """Tokens and their log-probabilities, and how far each was from being another."""
    options = {"temperature": 1.0, "stop_ids": (), **WAYS[way]}
    ids, log_probs, gaps = list(prompt), [], []
    for step in range(STEPS):
        row = np.zeros((1, WIDTH + STEPS), np.int32)
        row[0, : len(ids)] = ids
        logits = np.float64(logits_of(module, params, row)[0, len(ids) - 1])
        logits /= options["temperature"]
        if way == "truncated":
            logits[logits < np.sort(logits)[-TRUNCATION.top_k]] = -np.inf
            order = np.argsort(-logits)
            probs = np.exp(logits[order] - logits.max())
            before = (np.cumsum(probs) - probs) / probs.sum()
            logits[order[before >= TRUNCATION.top_p]] = -np.inf
        perturbed = logits
        if way != "greedy":
            noise = noise_of(words, step, len(logits))[0]
            perturbed = logits - np.log(np.float64(noise))
        token = int(perturbed.argmax())
        largest = np.sort(perturbed)[::-1]
        gaps.append(largest[0] - largest[1])
        log_probs.append(logits[token] - np.log(np.exp(logits).sum()))
        ids.append(token)
        if token in options["stop_ids"]:
            break
    return ids[len(prompt) :], log_probs, gaps


def same_until_a_tie(ids, length, want, gaps):
    """How many tokens are the same; after two that are as good as each other, none need."""
    ids = ids[:length].tolist()
    same = next(
        (i for i, (a, b) in enumerate(zip(ids, want, strict=False)) if a != b), None
    )
    if same is None:
        assert len(ids) == len(want)
        return length
    assert gaps[same] < 1e-3
    return same


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CONFIGS)
def test_completions_are_those_of_one_row_and_no_cache(name, way):
    module, params = model(name)
    prompts, lengths, keys = prompts_and_keys()
    got = run(module, params, prompts, lengths, jax.random.clone(keys), way)
    words = row_words(keys)
    num_same = 0
    for i, length in enumerate(lengths):
        want, log_probs, gaps = one_by_one(
            module, params, prompts[i, WIDTH - length :], words[i : i + 1], way
        )
        same = same_until_a_tie(got.ids[i], int(got.lengths[i]), want, gaps)
        num_same += same
        np.testing.assert_allclose(
            got.log_probs[i, :same], log_probs[:same], rtol=0, atol=1e-4
        )
    assert num_same > 0.9 * int(got.lengths.sum())
    assert np.unique(got.ids).size > 3  # or it would show nothing


@pytest.mark.slow
def test_a_row_alone_and_with_less_padding_is_the_same():
    module, params = model("gemma2")
    prompts, lengths, keys = prompts_and_keys(64)
    got = run(module, params, prompts, lengths, jax.random.clone(keys), "sampled")
    here = slice(62, 63)
    key, words = jax.random.clone(keys)[here], row_words(keys[here])
    alone = run(module, params, prompts[here], lengths[here], key, "sampled", width=4)
    prompt = prompts[62, WIDTH - lengths[62] :]
    want, _, gaps = one_by_one(module, params, prompt, words, "sampled")
    same = same_until_a_tie(got.ids[62], STEPS, want, gaps)
    assert same_until_a_tie(alone.ids[0], STEPS, want, gaps) == same > 0
    np.testing.assert_allclose(
        alone.log_probs[0, :same], got.log_probs[62, :same], rtol=0, atol=1e-4
    )


def test_log_probs_are_those_of_scoring_at_the_same_temperature():
    module, params = model("llama")
    prompts, lengths, keys = prompts_and_keys()
    got = run(module, params, prompts, lengths, keys, "sampled")
    rows = np.zeros((len(lengths), WIDTH + STEPS), np.int32)
    for row, prompt, length, ids in zip(rows, prompts, lengths, got.ids, strict=True):
        row[: length + STEPS] = [*prompt[WIDTH - length :], *ids]
    temperature = WAYS["sampled"]["temperature"]
    scored = token_log_probs(logits_of(module, params, rows), rows, temperature)
    for i, length in enumerate(lengths):
        np.testing.assert_allclose(
            got.log_probs[i], scored[i, length - 1 :][:STEPS], rtol=0, atol=1e-4
        )


def test_a_completion_ends_with_the_first_stop_token():
    module, params = model("llama")
    prompts, lengths, keys = prompts_and_keys(64)
    whole = run(module, params, prompts, lengths, jax.random.clone(keys), "sampled")
    WAYS["stopped"] = WAYS["sampled"] | {"stop_ids": STOPS}
    got = run(module, params, prompts, lengths, keys, "stopped")
    ends = np.isin(whole.ids, STOPS)
    first = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, STEPS)
    assert got.lengths.tolist() == first.tolist()
    assert got.stopped.tolist() == ends.any(axis=1).tolist()
    assert 5 < got.stopped.sum() < 64
    kept = np.arange(STEPS) < first[:, None]
    np.testing.assert_array_equal(got.ids, np.where(kept, whole.ids, 0))
    np.testing.assert_allclose(
        got.log_probs, np.where(kept, whole.log_probs, 0), rtol=0, atol=1e-6
    )


def test_the_loop_ends_when_every_row_has(monkeypatch):
    module, params = model("llama")
    prompts, lengths, keys = prompts_and_keys()
    steps = []

    def choose(self, logits, words, step):
        """Of row i the token after i ends it."""
        jax.debug.callback(lambda step: steps.append(int(step)), step)
        ends = jnp.arange(len(logits)) <= step
        return jnp.ones(len(logits), jnp.int32), jnp.zeros(len(logits)), ends

    monkeypatch.setattr(decoding.Sampling, "choose", choose)
    end_early = jax.jit(functools.partial(generate, module, max_new_tokens=STEPS))
    got = end_early(params, prompts, lengths, keys)
    jax.effects_barrier()
    assert sorted(steps) == [0, 1, 2, 3]
    assert got.lengths.tolist() == [1, 2, 3, 4]
    assert got.ids.sum(axis=1).tolist() == [1, 2, 3, 4]
    assert got.stopped.all()


@pytest.mark.slow
def test_a_single_token_is_the_first_of_several():
    module, params = model("llama")
    prompts, lengths, keys = prompts_and_keys()
    whole = run(module, params, prompts, lengths, jax.random.clone(keys), "greedy")
    one = jax.jit(functools.partial(generate, module, max_new_tokens=1, greedy=True))(
        params, prompts, lengths, keys
    )
    assert one.ids.tolist() == whole.ids[:, :1].tolist()
    assert one.lengths.tolist() == [1] * 4


def test_what_cannot_be_generated_is_refused():
    module, params = model("llama")
    prompts, lengths, keys = prompts_and_keys()
    for options, named in (
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"max_new_tokens": 19}, "context of 24 tokens together, got 6 and 19"),
        ({"stop_ids": (3, 11)}, "stop_ids must be tokens of the model's 11, got 11"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0. Raise it, or"),
    ):
        with pytest.raises(ValueError, match=named):
            generate(
                module,
                params,
                prompts,
                lengths,
                keys,
                **{"max_new_tokens": 2} | options,
            )
