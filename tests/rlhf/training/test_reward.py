import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.data.rows import Rankings, Ratings
from rljax.rlhf.models import HeadOnly, RewardModel, TransformerConfig
from rljax.rlhf.training import (
    RewardConfig,
    RewardHyperparams,
    RewardTask,
    fixed_only,
    reward,
    reward_training,
    trained_params,
)
from rljax.training import checkpoint
from rljax.training.loop import train
from rljax.training.populations import member, population, stack

scores_of = jax.jit(reward.scores_of, static_argnums=0)
TINY = TransformerConfig(
    vocab_size=16, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2,
    num_kv_heads=1, head_dim=8, max_length=12,
)  # fmt: skip
MODULE = RewardModel(TINY)
FIRST = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
CONFIG = RewardConfig(batch_size=16, num_microbatches=2, lengths=(6, 12))


def model_params(seed=0):
    return jax.jit(MODULE.init)(jax.random.key(seed), *FIRST)["params"]


def texts(rng, *shape):
    lengths = rng.integers(1, 13, shape)
    ids = rng.integers(0, 16, (*shape, 12))
    good = ((ids == 5) & (np.arange(12) < lengths[..., None])).sum(-1)
    return ids, lengths, good


def rankings(num_rows=256, k=2, seed=0):
    """Texts of which those are better that have token 5 more often."""
    ids, lengths, good = texts(np.random.default_rng(seed), 99 * num_rows, k)
    clear = np.diff(np.sort(good, axis=1)).all(axis=1).nonzero()[0][:num_rows]
    ids, lengths, good = ids[clear], lengths[clear], good[clear]
    order = np.argsort(-good, axis=1, kind="stable")
    ids = np.take_along_axis(ids, order[..., None], axis=1)
    return Rankings.of(ids, np.take_along_axis(lengths, order, axis=1))


def accuracy(params, rows):
    scores = scores_of(MODULE, params, rows.ids, rows.lengths)
    return float((scores[:, 0] > scores[:, 1]).mean())


@pytest.fixture(scope="module")
def trained():
    algorithm = reward_training(MODULE, CONFIG)
    task = RewardTask(rankings(), model_params())
    hyperparams = RewardHyperparams(learning_rate=1e-2)
    start = jax.jit(algorithm.init)(jax.random.key(1), hyperparams, task)
    return algorithm, task, start, train(algorithm, start, task, 60)


@pytest.mark.slow
def test_it_learns_what_is_preferred(trained):
    _, task, _, state = trained
    params = trained_params(MODULE, CONFIG.trainable, state, task)
    test = rankings(seed=1)
    assert accuracy(params, test) > 0.9
    assert accuracy(model_params(), test) < 0.7


@pytest.mark.slow
def test_without_the_parameters_that_the_state_has_nothing_changes(trained):
    algorithm, task, start, state = trained
    less = fixed_only(MODULE, CONFIG.trainable, task)
    assert not jax.tree.leaves(less.params)
    same = train(algorithm, start, less, 60)
    jax.tree.map(np.testing.assert_array_equal, same.params, state.params)


@pytest.mark.slow
def test_a_run_that_was_saved_goes_on_bit_for_bit(trained, tmp_path):
    algorithm, task, start, state = trained
    half = train(algorithm, start, task, 25)
    checkpoint.save(tmp_path, 25, half, {})
    like = jax.eval_shape(lambda: start)
    restored, _ = checkpoint.restore_latest(tmp_path, like)
    again = train(algorithm, restored, task, 35)
    jax.tree.map(np.testing.assert_array_equal, again.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, again.opt_state, state.opt_state)


@pytest.mark.slow
def test_a_population_learns_as_its_members_do_alone():
    config = RewardConfig(batch_size=16)
    algorithm = reward_training(MODULE, config)
    task = RewardTask(rankings(), model_params())
    keys = jax.random.split(jax.random.key(3), 8)
    rates = np.geomspace(1e-3, 1e-2, 8)
    hyperparams = stack(RewardHyperparams(), learning_rate=list(rates))
    many = population(algorithm)
    states = jax.jit(many.init)(keys, hyperparams, task)
    losses = {}

    def log(name):
        def on_log(state, entry):
            losses.setdefault(name, []).append(np.asarray(entry.metrics["loss"]))

        return on_log

    two = train(many, states, task, 2)
    train(many, two, task, 18, log_every=1, on_log=log("all"))
    for i in range(8):
        alone = jax.jit(algorithm.init)(
            jax.random.split(jax.random.key(3), 8)[i],
            RewardHyperparams(learning_rate=float(rates[i])),
            task,
        )
        alone = train(algorithm, alone, task, 2)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
            member(two, i).params,
            alone.params,
        )
        train(algorithm, alone, task, 18, log_every=1, on_log=log(i))
        assert abs(losses["all"][-1][i] - losses[i][-1]) < 1e-3


@pytest.mark.slow
def test_rankings_of_three_and_ratings_have_losses_of_their_own():
    config = RewardConfig(batch_size=8, trainable=HeadOnly(), new_head=False)
    algorithm = reward_training(MODULE, config)
    params = model_params()
    three = rankings(8, k=3)
    three = three.replace(lengths=three.lengths.at[0, 2].set(0))
    ids, lengths, good = texts(np.random.default_rng(4), 8)
    ratings = Ratings(*map(jnp.int32, (ids, lengths)), jnp.float32(good))
    for rows in (three, ratings):
        task = RewardTask(rows, params)
        state = jax.jit(algorithm.init)(jax.random.key(0), RewardHyperparams(), task)
        _, metrics = jax.jit(algorithm.step)(state, task)
        scores = np.float64(scores_of(MODULE, params, rows.ids, rows.lengths))
        if rows is ratings:
            want = ((scores - good) ** 2).mean()
        else:
            want = 0.0
            for row, sizes in zip(scores, rows.lengths, strict=True):
                s = row[np.asarray(sizes) > 0]
                want += sum(np.log(np.exp(s[i:]).sum()) - s[i] for i in range(len(s)))
            want /= 8
        assert float(metrics["loss"].value) == pytest.approx(want, rel=1e-4)


def test_configurations_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="num_microbatches must divide batch_size"):
        RewardConfig(batch_size=10, num_microbatches=3)
    algorithm = reward_training(MODULE, RewardConfig(batch_size=512))
    task = RewardTask(rankings(16), model_params())
    state = jax.jit(algorithm.init)(jax.random.key(0), RewardHyperparams(), task)
    with pytest.raises(ValueError, match="batch_size must be at most the 16 rows"):
        train(algorithm, state, task, 1)
