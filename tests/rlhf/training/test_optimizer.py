import collections
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.training.optimizer import adamw, batch_of_rows, learning_rate
from rljax.rlhf.training.reward import RewardHyperparams, check_hyperparams


@pytest.mark.parametrize(("num_rows", "batch_size"), [(12, 4), (10, 4), (7, 7), (9, 6)])
def test_every_row_comes_once_in_an_epoch(num_rows, batch_size):
    key = jax.random.key(0)
    draw = jax.jit(batch_of_rows, static_argnums=(2, 3))
    epochs = 12
    rows = np.concatenate(
        [
            draw(key, jnp.int32(step), num_rows, batch_size)
            for step in range(epochs * num_rows // batch_size)
        ]
    )
    whole = rows[: len(rows) // num_rows * num_rows].reshape(-1, num_rows)
    np.testing.assert_array_equal(
        np.sort(whole), np.arange(num_rows)[None].repeat(len(whole), 0)
    )
    assert len(set(map(tuple, whole.tolist()))) == len(whole)  # in other orders


def test_the_rows_of_late_updates_are_found_without_overflow():
    late = batch_of_rows(jax.random.key(0), jnp.int32(2**31 - 3), 1000, 64)
    assert collections.Counter(late.tolist()).most_common(1)[0][1] <= 2
    assert 0 <= late.min() <= late.max() < 1000


def test_the_learning_rate_rises_and_falls_as_half_a_cosine():
    hyperparams = RewardHyperparams(
        learning_rate=2.0, warmup_updates=4.0, decay_updates=14.0
    )
    found = [float(learning_rate(hyperparams, jnp.int32(i))) for i in range(16)]
    rising = [2.0 * (i + 1) / 5 for i in range(4)]
    falling = [1 + math.cos(math.pi * min(i - 4, 10) / 10) for i in range(4, 16)]
    np.testing.assert_allclose(found, rising + falling, atol=1e-6)
    constant = RewardHyperparams(learning_rate=2.0)
    assert float(learning_rate(constant, jnp.int32(10**6))) == 2.0


def test_only_matrices_decay():
    params = {"layers": {"q": {"kernel": jnp.ones(3)}, "norm": {"scale": jnp.ones(3)}}}
    hyperparams = RewardHyperparams(learning_rate=1.0, weight_decay=0.1)
    optimizer = adamw(hyperparams, jnp.int32(0))
    zero = jax.tree.map(jnp.zeros_like, params)
    change, _ = optimizer.update(zero, optimizer.init(params), params)
    assert change["layers"]["q"]["kernel"].tolist() == pytest.approx([-0.1] * 3)
    assert not change["layers"]["norm"]["scale"].any()


def test_numbers_out_of_their_ranges_are_refused():
    with pytest.raises(ValueError, match="label_smoothing"):
        check_hyperparams(RewardHyperparams(label_smoothing=0.6))
    with pytest.raises(ValueError, match="learning_rate"):
        check_hyperparams(RewardHyperparams(learning_rate=-1.0))
