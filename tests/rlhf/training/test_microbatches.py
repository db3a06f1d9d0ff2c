import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.data.rows import Completions, Rankings
from rljax.rlhf.models import RewardModel, Transformer, TransformerConfig
from rljax.rlhf.training import reward, sft
from rljax.rlhf.training.microbatches import check_rows, gradients, usual_lengths

TINY = TransformerConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2,
    num_kv_heads=1, head_dim=8, max_length=32,
)  # fmt: skip


def ragged(rng, *shape):
    """Ids and lengths of rows of 1 to 32 tokens; what is padding would be wrong."""
    ids = rng.integers(0, 32, (*shape, 32))
    return ids, rng.integers(1, 33, shape)


def same(one, other, tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        difference = jnp.linalg.norm((a - b).ravel())
        assert difference <= tolerance * jnp.linalg.norm(a.ravel())


def reward_gradients(dtype):
    import dataclasses

    module = RewardModel(dataclasses.replace(TINY, dtype=dtype))
    rng = np.random.default_rng(0)
    rows = Rankings.of(*ragged(rng, 32, 2))
    start = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    params = module.init(jax.random.key(0), *start)["params"]
    params = jax.tree.map(lambda x: x.astype(dtype), params)

    def loss(params, rows):
        losses, sums = reward._losses(module, params, rows, reward.RewardHyperparams())
        return losses.sum() / 32, sums

    return loss, params, rows


def sft_gradients(dtype):
    import dataclasses

    module = Transformer(dataclasses.replace(TINY, dtype=dtype))
    rng = np.random.default_rng(0)
    ids, lengths = ragged(rng, 32)
    starts = rng.integers(0, 16, 32)
    rows = Completions(*map(jnp.int32, (ids, lengths, starts)))
    first = jnp.zeros((1, 1), jnp.int32)
    params = module.init(jax.random.key(0), first, method="logits")["params"]
    params = jax.tree.map(lambda x: x.astype(dtype), params)

    def loss(params, part):
        losses, sums = sft._losses(module, params, part)
        return losses.sum() / rows.num_learned.sum(), sums

    return loss, params, rows


@pytest.mark.slow
@pytest.mark.parametrize("problem", [reward_gradients, sft_gradients])
def test_four_microbatches_have_the_gradient_of_one_batch(problem):
    loss, params, rows = problem(jnp.float32)
    ways = {1: (32,), 4: (16, 32)}
    found = {
        n: jax.jit(functools.partial(gradients, loss, num_microbatches=n, lengths=cuts))
        for n, cuts in ways.items()
    }
    (whole, sums), (parts, part_sums) = (f(params, rows) for f in found.values())
    same(whole, parts, 1e-5)
    same(sums, part_sums, 1e-5)


@pytest.mark.parametrize("problem", [reward_gradients, sft_gradients])
@pytest.mark.slow
def test_in_float64_to_rounding(problem):
    with jax.enable_x64(True):
        loss, params, rows = problem(jnp.float64)
        cut = functools.partial(gradients, loss, num_microbatches=4, lengths=(16, 32))
        parts, _ = jax.jit(cut)(params, rows)
        direct = jax.jit(jax.grad(lambda p: loss(p, rows)[0]))(params)
        assert {x.dtype for x in jax.tree.leaves(parts)} == {jnp.dtype("float64")}
        same(direct, parts, 1e-10)


def test_usual_lengths():
    assert usual_lengths(300) == (75, 150, 300)
    assert usual_lengths(40) == (40,)


def test_rows_that_do_not_fit_are_refused():
    rows = Rankings.of(np.ones((3, 2, 8)), np.full((3, 2), 5))
    check_rows(rows, 3, (8,))
    with pytest.raises(ValueError, match="at most the 3 rows there are, got 4"):
        check_rows(rows, 4, ())
    with pytest.raises(ValueError, match="at least the longest row's 5 tokens"):
        check_rows(rows, 2, (4,))
    with pytest.raises(ValueError, match="row 1 has none"):
        check_rows(rows.replace(lengths=rows.lengths.at[1].set(0)), 2, ())
