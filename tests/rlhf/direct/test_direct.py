import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.data.rows import LabelledCompletions, Rankings
from rljax.rlhf.direct import (
    DirectConfig,
    DirectHyperparams,
    DirectTask,
    direct_alignment,
    implicit_rewards,
    with_reference,
)
from rljax.rlhf.direct.direct_alignment import _batch_kl, _losses
from rljax.rlhf.models import LoraOnly, Transformer, TransformerConfig
from rljax.rlhf.training import TrainingState, trained_params
from rljax.rlhf.training.microbatches import gradients
from rljax.rlhf.training.optimizer import batch_of_rows
from rljax.training.loop import train

TINY = TransformerConfig(
    vocab_size=12, hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2,
    num_kv_heads=1, head_dim=8, max_length=8, tie_embeddings=True,
)  # fmt: skip
MODULE = Transformer(TINY)
SIZES = {"batch_size": 16, "num_microbatches": 2, "lengths": (5, 8)}


def model_params(seed=0):
    ids = jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(lambda key: MODULE.init(key, ids, method="logits"))
    params = init(jax.random.key(seed))["params"]
    return jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, params)


def texts(rng, num_rows):
    """Two completions of a prompt of 0 to 2 tokens; what is padding would be wrong."""
    ids = rng.integers(0, 12, (num_rows, 2, 8))
    starts = rng.integers(0, 3, num_rows)
    first = np.arange(8) < starts[:, None]
    ids[:, 1] = np.where(first, ids[:, 0], ids[:, 1])
    lengths = rng.integers(4, 9, (num_rows, 2))
    return ids, lengths, np.stack([starts, starts], 1)


def pairs(num_rows=64, seed=0):
    """Pairs of which the chosen one has the more of token 5."""
    ids, lengths, starts = texts(np.random.default_rng(seed), 9 * num_rows)
    real = (np.arange(8) < lengths[..., None]) & (np.arange(8) >= starts[..., None])
    good = ((ids == 5) & real).sum(-1)
    clear = (good[:, 0] != good[:, 1]).nonzero()[0][:num_rows]
    ids, lengths, good = ids[clear], lengths[clear], good[clear]
    order = np.argsort(-good, axis=1)
    ids = np.take_along_axis(ids, order[..., None], axis=1)
    lengths = np.take_along_axis(lengths, order, axis=1)
    return Rankings.of(ids, lengths, starts=starts[clear])


def labelled(num_rows=64, seed=0):
    rng = np.random.default_rng(seed)
    ids, lengths, starts = map(jnp.int32, texts(rng, num_rows))
    return LabelledCompletions(ids, lengths, starts, jnp.arange(num_rows) % 3 == 0)


def rows_of(loss, num_rows=64, seed=0):
    rows = labelled(num_rows, seed) if loss == "kto" else pairs(num_rows, seed)
    return with_reference(MODULE, model_params(1), rows)


def by_loops(params, ids, starts, lengths):
    """The log-probability of a completion: a product of a token's at a time."""
    apply = jax.jit(lambda ids: MODULE.apply({"params": params}, ids, method="logits"))
    flat = np.asarray(ids).reshape(-1, 8)
    logits, found = np.float64(apply(flat)), []
    places = zip(flat, np.ravel(starts), np.ravel(lengths), logits, strict=True)
    for row, start, length, values in places:
        total = 0.0
        for t in range(max(start, 1), length):
            total += values[t - 1, row[t]] - np.log(np.exp(values[t - 1]).sum())
        found.append(total)
    return np.array(found).reshape(np.shape(lengths))


@pytest.fixture(scope="module")
def trained():
    algorithm = direct_alignment(MODULE, DirectConfig(**SIZES))
    params = model_params()
    task = DirectTask(with_reference(MODULE, params, pairs()), params)
    hyperparams = DirectHyperparams(learning_rate=3e-3, beta=0.3)
    start = jax.jit(algorithm.init)(jax.random.key(1), hyperparams, task)
    return algorithm, task, start, train(algorithm, start, task, 40)


def test_the_reference_is_the_product_of_the_tokens_probabilities():
    params, rows = model_params(1), pairs()
    missing = rows.replace(lengths=rows.lengths.at[3, 1].set(0))
    for max_tokens in (None, 24):
        found = with_reference(MODULE, params, missing, max_tokens=max_tokens).reference
        want = by_loops(params, rows.ids, rows.starts, missing.lengths)
        np.testing.assert_allclose(found, want, rtol=1e-4)
        assert found.dtype == jnp.float32
        assert found[3, 1] == 0


@pytest.mark.slow
def test_it_prefers_what_is_chosen(trained):
    _, task, start, state = trained
    params = trained_params(MODULE, DirectConfig().trainable, state, task)
    test = with_reference(MODULE, task.params, pairs(seed=1))
    rewards = implicit_rewards(MODULE, params, test, beta=0.3)
    assert (rewards[:, 0] > rewards[:, 1]).mean() > 0.8
    want = 0.3 * (
        by_loops(params, test.ids, test.starts, test.lengths)
        - by_loops(task.params, test.ids, test.starts, test.lengths)
    )
    np.testing.assert_allclose(rewards, want, atol=2e-4)
    at_first = implicit_rewards(MODULE, start.params, test, beta=0.3)
    np.testing.assert_allclose(at_first, 0.0, atol=1e-5)


@pytest.mark.slow
def test_the_first_loss_of_dpo_and_the_metrics_are_what_they_are_called(trained):
    algorithm, task, start, _ = trained
    _, metrics = jax.jit(algorithm.step)(start, task)
    assert float(metrics["loss"].value) == pytest.approx(math.log(2), rel=1e-4)
    rows = np.asarray(batch_of_rows(start.key, jnp.int32(0), 64, 16))
    chosen, rejected = np.asarray(task.rows.reference)[rows].T
    assert float(metrics["chosen_log_prob"].value) == pytest.approx(chosen.mean())
    assert float(metrics["rejected_log_prob"].value) == pytest.approx(rejected.mean())
    tokens = np.asarray(task.rows.lengths)[rows].sum() / 16
    assert float(metrics["tokens"].value) == pytest.approx(tokens)
    assert {"accuracy", "margin", "chosen_reward", "rejected_reward", "grad_norm"} <= {
        *metrics
    }
    assert "kl" not in metrics


def test_ktos_distance_is_of_the_whole_batch_and_not_below_zero():
    config = DirectConfig(loss="kto", **SIZES)
    params, rows = model_params(), rows_of("kto", 16)
    log_probs = by_loops(params, rows.ids, rows.starts, rows.lengths)
    mean = (log_probs - np.asarray(rows.reference))[:, 1].mean()
    kl = jax.jit(functools.partial(_batch_kl, MODULE, config=config))
    sign = 1 if mean > 0 else -1
    # The sign of the mean is what the rows happen to have: made positive, then negative.
    ratio = (rows.reference - log_probs) * sign
    above = rows.replace(reference=jnp.float32(log_probs - abs(ratio)))
    below = rows.replace(reference=jnp.float32(log_probs + abs(ratio)))
    want = float(abs(ratio)[:, 1].mean())
    assert float(kl(params, above)) == pytest.approx(want, rel=1e-4)
    assert float(kl(params, below)) == 0.0


LOSSES = ("dpo", "robust_dpo", "hinge", "ipo_sum", "ipo_mean", "simpo", "orpo", "kto")


@pytest.mark.parametrize(
    "loss",
    [
        one if one == "kto" else pytest.param(one, marks=pytest.mark.slow)
        for one in LOSSES
    ],
)
def test_four_microbatches_have_the_gradient_of_one_batch(loss):
    params, rows = model_params(), rows_of(loss, 16)
    numbers, found = DirectHyperparams(label_smoothing=0.1), []
    for parts, lengths in ((1, (8,)), (4, (5, 8))):
        config = DirectConfig(
            loss=loss, batch_size=16, num_microbatches=parts, lengths=lengths
        )

        def both(params, config=config, parts=parts, lengths=lengths):
            kl = jnp.float32(0.0)
            if loss == "kto":
                kl = _batch_kl(MODULE, params, rows, config)

            def total(params, rows):
                losses, means = _losses(MODULE, params, rows, numbers, loss, kl)
                return losses.sum() / 16, means

            return gradients(
                total, params, rows, num_microbatches=parts, lengths=lengths
            )

        found.append(jax.jit(both)(params))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        assert jnp.linalg.norm((a - b).ravel()) <= 1e-5 * jnp.linalg.norm(a.ravel())


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_prefers_what_is_chosen(loss):
    config = DirectConfig(loss=loss, batch_size=32)
    params = model_params()
    rows = pairs(256)
    if loss == "kto":
        ids, lengths, starts = rows.ids, rows.lengths, rows.starts
        mixed = [
            jnp.concatenate(
                [jnp.stack([x[:, i], jnp.roll(x[:, i], 1, 0)], 1) for i in (0, 1)]
            )
            for x in (ids, lengths, starts)
        ]
        rows = LabelledCompletions(*mixed, jnp.arange(512) < 256)
    task = DirectTask(with_reference(MODULE, params, rows), params)
    numbers = DirectHyperparams(learning_rate=3e-3, beta=0.3)
    algorithm = direct_alignment(MODULE, config)
    state = jax.jit(algorithm.init)(jax.random.key(1), numbers, task)
    state = train(algorithm, state, task, 100)
    test = with_reference(MODULE, params, pairs(256, seed=1))
    rewards = implicit_rewards(MODULE, state.params, test, beta=0.3)
    assert (rewards[:, 0] > rewards[:, 1]).mean() > 0.8


@pytest.mark.slow
def test_low_rank_terms_learn_without_a_second_model():
    config = DirectConfig(batch_size=32, trainable=LoraOnly())
    params = model_params()
    task = DirectTask(with_reference(MODULE, params, pairs(256)), params)
    algorithm = direct_alignment(MODULE, config)
    numbers = DirectHyperparams(learning_rate=1e-2, beta=0.3)
    state = jax.jit(algorithm.init)(jax.random.key(1), numbers, task)
    state = train(algorithm, state, task, 200)
    merged = trained_params(MODULE, config.trainable, state, task)
    test = with_reference(MODULE, params, pairs(256, seed=1))
    rewards = implicit_rewards(MODULE, merged, test, beta=0.3)
    assert (rewards[:, 0] > rewards[:, 1]).mean() > 0.8


def check(rows, loss="dpo", **numbers):
    algorithm = direct_alignment(MODULE, DirectConfig(loss=loss, batch_size=16))
    numbers = DirectHyperparams(**numbers)
    state = TrainingState(jax.random.key(0), 0, {}, None, numbers)
    algorithm.check(state, DirectTask(rows, {}))


def test_rows_that_teach_nothing_are_refused():
    bare, rows = pairs(16), rows_of("dpo", 16)
    check(rows)
    check(bare, "simpo")
    with pytest.raises(
        ValueError, match=r"of a reference model, got none. Use with_ref"
    ):
        check(bare)
    with pytest.raises(ValueError, match="where completions start, got none"):
        check(rows.replace(starts=None))
    with pytest.raises(ValueError, match="token 12, but the model embeds only 12"):
        check(rows.replace(ids=rows.ids.at[2, 1, 3].set(12)))
    with pytest.raises(ValueError, match="all 16 rows are the same"):
        check(jax.tree.map(lambda x: x[:, :1].repeat(2, 1) if x.ndim > 1 else x, rows))
    with pytest.raises(ValueError, match="a token to learn, but one of row 3 has none"):
        check(rows.replace(starts=rows.starts.at[3, 1].set(8)))
    with pytest.raises(ValueError, match=r"row 1 has .*nan"):
        check(rows.replace(reference=rows.reference.at[1, 0].set(jnp.nan)))
    with pytest.raises(ValueError, match="ipo_mean has no place for margins"):
        check(rows.replace(margins=rows.margins + 1), "ipo_mean")
    three = Rankings.of(
        np.arange(240).reshape(16, 3, 5) % 7,
        np.full((16, 3), 5),
        starts=np.ones((16, 3)),
    ).replace(reference=jnp.zeros((16, 3)))
    check(three)
    with pytest.raises(ValueError, match="hinge learns from pairs, got rankings of 3"):
        check(three, "hinge")


def test_labels_that_teach_nothing_are_refused():
    rows = rows_of("kto", 16)
    check(rows, "kto")
    with pytest.raises(ValueError, match="all 16 labels are False"):
        check(rows.replace(labels=jnp.zeros(16, bool)), "kto")
    with pytest.raises(ValueError, match="of dpo must be Rankings, got Labelled"):
        check(rows)
    with pytest.raises(
        ValueError, match="of kto must be LabelledCompletions, got Rank"
    ):
        check(rows_of("dpo", 16), "kto")


def test_settings_that_make_no_sense_are_refused():
    rows = rows_of("dpo", 16)
    with pytest.raises(ValueError, match=r"loss must be one of dpo, .*, got 'ppo'"):
        DirectConfig(loss="ppo")
    with pytest.raises(ValueError, match="beta must lie in"):
        check(rows, beta=0.0)
    with pytest.raises(ValueError, match=r"label_smoothing must be below 0\.5"):
        check(rows, "robust_dpo", label_smoothing=0.5)
    with pytest.raises(ValueError, match="batch_size must be at most the 8 rows"):
        check(rows_of("dpo", 8))
    with pytest.raises(ValueError, match="of a reference model, got none"):
        implicit_rewards(MODULE, model_params(), pairs(16), beta=0.1)
