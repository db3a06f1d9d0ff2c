import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.data.rows import Completions
from rljax.rlhf.models import Transformer, TransformerConfig
from rljax.rlhf.models.log_probs import token_log_probs
from rljax.rlhf.training import (
    SFTConfig,
    SFTHyperparams,
    SFTTask,
    fine_tuning,
)
from rljax.training import checkpoint
from rljax.training.loop import train

TINY = TransformerConfig(
    vocab_size=12, hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2,
    num_kv_heads=1, head_dim=8, max_length=8, tie_embeddings=True,
)  # fmt: skip
MODULE = Transformer(TINY)
CONFIG = SFTConfig(batch_size=16, num_microbatches=2, lengths=(5, 8))


def model_params():
    ids = jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(lambda key: MODULE.init(key, ids, method="logits"))
    return init(jax.random.key(0))["params"]


def completions(num_rows=128, seed=0):
    """Three random tokens, and a completion that repeats the first of them."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 12, (num_rows, 8))
    lengths = rng.integers(4, 9, num_rows)
    repeated = np.where(np.arange(8) < 3, ids, ids[:, :1])
    return Completions(*map(jnp.int32, (repeated, lengths, np.full(num_rows, 3))))


@pytest.fixture(scope="module")
def trained():
    algorithm = fine_tuning(MODULE, CONFIG)
    task = SFTTask(completions(), model_params())
    hyperparams = SFTHyperparams(learning_rate=2e-2)
    start = jax.jit(algorithm.init)(jax.random.key(1), hyperparams, task)
    return algorithm, task, start, train(algorithm, start, task, 100)


def test_completions_become_probable(trained):
    _, _, start, state = trained
    test = completions(seed=1)

    def mean_log_prob(params):
        logits = MODULE.apply({"params": params}, test.ids, method="logits")
        log_probs = np.asarray(token_log_probs(logits, test.ids))
        places = np.arange(1, 8)
        learned = (places >= 3) & (places < np.asarray(test.lengths)[:, None])
        return log_probs[learned].mean()

    assert mean_log_prob(state.params) > mean_log_prob(start.params) + 0.5


def test_the_loss_is_of_the_completions_tokens_alone(trained):
    algorithm, task, start, _ = trained
    _, metrics = jax.jit(algorithm.step)(start, task)
    total, count = 0.0, 0
    from rljax.rlhf.training.optimizer import batch_of_rows

    apply = jax.jit(
        lambda ids: MODULE.apply({"params": start.params}, ids, method="logits")
    )
    rows = np.asarray(batch_of_rows(start.key, jnp.int32(0), 128, 16))
    every = np.float64(apply(task.rows.ids[rows]))
    for row, logits in zip(rows, every, strict=True):
        ids = np.asarray(task.rows.ids[row, : task.rows.lengths[row]])
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        for place in range(3, len(ids)):
            total, count = total - logits[place - 1, ids[place]], count + 1
    assert float(metrics["loss"].weight) == count
    assert float(metrics["loss"].value) == pytest.approx(total / count, rel=1e-5)


def test_what_is_saved_goes_on_bit_for_bit(trained, tmp_path):
    algorithm, task, start, state = trained
    checkpoint.save(tmp_path, 40, train(algorithm, start, task, 40), {})
    restored, _ = checkpoint.restore_latest(tmp_path, jax.eval_shape(lambda: start))
    again = train(algorithm, restored, task, 60)
    jax.tree.map(np.testing.assert_array_equal, again.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, again.opt_state, state.opt_state)


def test_a_row_without_a_token_to_learn_is_no_nan():
    rows = completions(16)
    rows = rows.replace(starts=rows.lengths)
    algorithm = fine_tuning(MODULE, SFTConfig(batch_size=16))
    task = SFTTask(rows, model_params())
    state = jax.jit(algorithm.init)(jax.random.key(0), SFTHyperparams(), task)
    after, metrics = jax.jit(algorithm.step)(state, task)
    assert float(metrics["loss"].total) == 0.0
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
