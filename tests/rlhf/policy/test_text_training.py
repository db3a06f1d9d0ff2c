"""Rewards of texts: the same training as with the same reward of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.data import ByteTokenizer
from rljax.rlhf.models import Transformer, TransformerConfig
from rljax.rlhf.policy import (
    PolicyConfig,
    PolicyHyperparams,
    policy_optimization,
    rloo,
)
from rljax.rlhf.policy.text_training import text_task, text_training
from rljax.training import checkpoint
from rljax.training.files import RunError
from rljax.training.loop import train

MODULE = Transformer(
    TransformerConfig(
        vocab_size=258,
        hidden_size=16,
        intermediate_size=24,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        max_length=8,
    )
)
TEXTS = ["ab", "c", "de"]
CONFIG = PolicyConfig(
    method=rloo().method, num_prompts=2, group_size=4, max_new_tokens=3, stop_ids=(257,)
)


@pytest.fixture(scope="module")
def task():
    ids = jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(lambda key: MODULE.init(key, ids, method="logits"))
    params = init(jax.random.key(0))["params"]
    made = text_task(ByteTokenizer(), TEXTS, params, bos=False)
    assert made.prompts.tolist() == [[97, 98], [0, 99], [100, 101]]
    assert made.prompt_lengths.tolist() == [2, 1, 2]
    return made


def letters(prompts, completions):
    return [sum(c.isascii() and c.isalpha() for c in text) for text in completions]


def letters_of_tokens(params, samples):
    ids = samples.completions
    small = (ids >= 97) & (ids <= 122)
    return (small | (ids >= 65) & (ids <= 90)).sum(axis=1).astype(jnp.float32)


def start(learner, task):
    hyperparams = PolicyHyperparams(learning_rate=1e-2)
    return jax.jit(learner.algorithm.init)(jax.random.key(1), hyperparams, task)


@pytest.mark.slow
def test_training_is_that_with_the_same_reward_of_tokens(task, tmp_path):
    learner = policy_optimization(MODULE, CONFIG)
    seen = []

    def reward(prompts, completions):
        seen.extend(prompts)
        return letters(prompts, completions)

    on_text = text_training(learner, ByteTokenizer(), TEXTS, reward)
    logged = []

    def log(state, entry):
        logged.append((entry.step, float(entry.metrics["reward"])))

    first = start(learner, task)
    algorithm, take = on_text
    state = train(algorithm, first, task, 6, log_every=2, on_log=log, take_updates=take)
    assert set(seen) == set(TEXTS)
    assert [step for step, _ in logged] == [2, 4, 6]

    compiled = policy_optimization(MODULE, CONFIG, letters_of_tokens)
    rewards = []
    same = train(
        compiled.algorithm, first, task, 6, log_every=2,
        on_log=lambda _, entry: rewards.append(float(entry.metrics["reward"])),
    )  # fmt: skip
    np.testing.assert_allclose([x for _, x in logged], rewards, rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(same.params), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-4)

    half = train(algorithm, first, task, 3, take_updates=take)
    checkpoint.save(tmp_path, 3, half, {})
    loaded, _ = checkpoint.restore_latest(tmp_path, jax.eval_shape(lambda: first))
    again = train(algorithm, loaded, task, 3, take_updates=take)
    for a, b in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(again.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_reward_that_fails_ends_the_run_and_keeps_its_completions(task, tmp_path):
    learner = policy_optimization(MODULE, CONFIG)

    def broken(prompts, completions):
        return [float("nan")] * len(prompts)

    on_text = text_training(learner, ByteTokenizer(), TEXTS, broken, keep_in=tmp_path)
    with pytest.raises(RunError, match="returned nan for completion 0"):
        train(
            on_text.algorithm, start(learner, task), task, 2,
            take_updates=on_text.take_updates,
        )  # fmt: skip
    (file,) = tmp_path.iterdir()
    assert len(file.read_text().splitlines()) == 8


def test_texts_are_those_of_the_tasks_prompts(task):
    learner = policy_optimization(MODULE, CONFIG)
    on_text = text_training(learner, ByteTokenizer(), TEXTS[:2], letters)
    with pytest.raises(ValueError, match="texts of the task's 3 prompts, got 2"):
        train(
            on_text.algorithm, start(learner, task), task, 1,
            take_updates=on_text.take_updates,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "message"),
    [([], "at least one prompt, got none"), (["a", ""], "prompt 1 cannot be encoded")],
)
def test_texts_that_are_no_prompts_are_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        text_task(ByteTokenizer(), texts, {}, bos=False)
