"""Completions of held-out prompts: what follows from the key, and from nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.direct.reference import completion_log_probs
from rljax.rlhf.models import Transformer, TransformerConfig
from rljax.rlhf.policy.held_out import divergences, sample_held_out

MODULE = Transformer(
    TransformerConfig(
        vocab_size=11, hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2,
        num_kv_heads=1, head_dim=8, max_length=8,
    )
)  # fmt: skip
LENGTHS = np.array([3, 1, 2, 3, 2], np.int32)
PROMPTS = np.where(np.arange(3) >= 3 - LENGTHS[:, None], np.arange(5)[:, None] + 1, 0)


@functools.cache
def model_params(seed):
    ids = jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(lambda key: MODULE.init(key, ids, method="logits")["params"])
    return jax.tree.map(
        lambda x: 3 * x if x.ndim > 2 else x, init(jax.random.key(seed))
    )


def sampled(seed=0, reference=1, rows=slice(None), rows_at_once=64, temperature=1.0):
    return sample_held_out(
        MODULE, model_params(seed), None if reference is None else model_params(reference),
        PROMPTS[rows], LENGTHS[rows], jax.random.key(7), max_new_tokens=4, stop_ids=(10,),
        rows_at_once=rows_at_once, temperature=temperature,
    )  # fmt: skip


@pytest.mark.parametrize("rows_at_once", [1, 2, 4])
def test_the_size_of_a_batch_changes_nothing_but_rounding(rows_at_once):
    whole, parts = sampled(), sampled(rows_at_once=rows_at_once)
    for name in ("ids", "lengths", "starts", "prompt_index", "stopped"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    for name in ("log_probs", "reference_log_probs"):
        one, other = getattr(whole, name), getattr(parts, name)
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert whole.prompt_index.tolist() == [0, 1, 2, 3, 4]


def test_a_subset_is_sampled_as_the_whole_is():
    np.testing.assert_array_equal(sampled(rows=slice(3)).ids, sampled().ids[:3])


def test_another_row_has_other_random_numbers():
    """Equal prompts have different completions."""
    samples = sampled(rows=np.zeros(32, np.int64))
    assert len(np.unique(np.asarray(samples.completions), axis=0)) > 4


def test_policies_share_their_random_numbers():
    """Of policies that hardly differ most completions are the same."""
    first, other = model_params(0), model_params(1)
    near = jax.tree.map(lambda a, b: a + 1e-3 * b, first, other)
    rows = np.arange(64) % 5
    one, two = (
        sample_held_out(
            MODULE, params, None, PROMPTS[rows], LENGTHS[rows], jax.random.key(7),
            max_new_tokens=4,
        )
        for params in (first, near)
    )  # fmt: skip
    assert (np.asarray(one.ids) == np.asarray(two.ids)).all(axis=1).mean() > 0.8
    assert one.reference_log_probs is None
    with pytest.raises(ValueError, match="log-probabilities of a reference, got none"):
        divergences(one)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probs_are_those_of_whole_rows(temperature):
    """Computed as the losses of direct alignment are, from rows padded on the right."""
    samples = sampled(temperature=temperature)

    def cooled(params):
        kernel = {"kernel": params["lm_head"]["kernel"] / temperature}
        return params | {"lm_head": kernel}

    rows = samples.ids, samples.starts, samples.lengths
    found = [
        completion_log_probs(MODULE, cooled(model_params(seed)), *rows)
        for seed in (0, 1)
    ]
    log_probs = samples.log_probs, samples.reference_log_probs
    for wanted, of_tokens in zip(found, log_probs, strict=True):
        np.testing.assert_allclose(of_tokens.sum(axis=1), wanted, atol=1e-5)
    np.testing.assert_allclose(divergences(samples), found[0] - found[1], atol=1e-5)


def test_no_prompts_are_refused():
    with pytest.raises(ValueError, match="prompts"):
        sampled(rows=slice(0))
