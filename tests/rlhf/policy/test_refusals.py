"""What cannot be learned from is refused at every door, by a message that says why."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import policy_world as world
import pytest

from rljax.rlhf.data import ByteTokenizer
from rljax.rlhf.data.rows import LabelledCompletions, Rankings
from rljax.rlhf.direct import (
    DirectConfig,
    DirectHyperparams,
    DirectTask,
    direct_alignment,
    with_reference,
)
from rljax.rlhf.generation import generate
from rljax.rlhf.models import RewardModel, Transformer
from rljax.rlhf.policy import (
    PolicyConfig,
    PolicyHyperparams,
    PolicyMethod,
    PolicyTask,
    policy_optimization,
    text_training,
)
from rljax.rlhf.policy.experience import learn_from
from rljax.rlhf.policy.rewards import matches, model_reward, weighted_texts
from rljax.rlhf.policy.rewards.text_rewards import checked_scores
from rljax.rlhf.training import TrainingState
from rljax.training.files import RunError

MODULE, KEY = world.MODULE, jax.random.key(0)
SHAPES = jax.eval_shape(
    lambda key: MODULE.init(key, jnp.zeros((1, 1), jnp.int32), method="logits"), KEY
)
PARAMS = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), SHAPES["params"])
PROMPTS, LENGTHS = np.array([[0, 0, 1], [0, 1, 0], [2, 0, 1]]), np.array([1, 2, 3])
TASK = PolicyTask(PROMPTS, LENGTHS, PARAMS)
CONFIG = PolicyConfig(
    method=PolicyMethod(kl="none", baseline="group"), num_prompts=2, group_size=2,
    max_new_tokens=world.T,
)  # fmt: skip
LEARNER = policy_optimization(MODULE, CONFIG, lambda params, samples: params)
KEYS = jax.random.split(jax.random.key(1), 3)


@functools.cache
def first_state():
    """Shapes alone, but for the hyperparameters."""
    state = jax.eval_shape(LEARNER.algorithm.init, KEY, PolicyHyperparams(), TASK)
    return state.replace(hyperparams=PolicyHyperparams())


@functools.cache
def drawn():
    """Shapes of samples."""
    return jax.eval_shape(LEARNER.sample, first_state(), TASK)[1]


def resized(module, **sizes):
    return type(module)(dataclasses.replace(module.config, **sizes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": PROMPTS.tolist()}, r"integer array \[M, P\], got list"),
        ({"prompts": PROMPTS[0]}, r"integer array \[M, P\], got int64\[3\]"),
        ({"prompts": PROMPTS * 1.0}, r"\[M, P\], got float64\[3, 3\]"),
        ({"prompts": PROMPTS + 1}, r"in \[0, 3\), but prompt 2 has 3"),
        ({"prompts": -PROMPTS}, r"in \[0, 3\), but prompt 0 has -1"),
        ({"prompts": PROMPTS[:, ::-1]}, "end with token 0, .* padded on the right"),
        ({"params": {"params": PARAMS}}, r'no .* Give variables\["params"\], not'),
        ({"params": {}}, r"'embed/embedding' is missing"),
        ({"params": None}, 'have under "params", got NoneType'),
    ],
)
def test_tasks_of_policy_optimization(changes, message):
    LEARNER.algorithm.check(first_state(), TASK)
    with pytest.raises(ValueError, match=message):
        LEARNER.algorithm.check(first_state(), TASK.replace(**changes))


def test_padding_may_be_of_any_id():
    padded = np.array([[9, 9, 1], [9, 1, 0], [2, 0, 1]])
    LEARNER.algorithm.check(first_state(), TASK.replace(prompts=padded))
    padded = np.array([[7, 7, 0], [7, 1, 0], [2, 1, 0]])  # all end with one token
    LEARNER.algorithm.check(first_state(), TASK.replace(prompts=padded))


@pytest.mark.parametrize("beta", [-0.1, np.nan])
def test_numbers_out_of_range(beta):
    numbers = PolicyHyperparams(beta=beta)
    with pytest.raises(ValueError, match=r"beta must lie in \[0, .*, got"):
        LEARNER.algorithm.check(first_state().replace(hyperparams=numbers), TASK)
    with pytest.raises(ValueError, match=r"stop_ids must be a tuple .*, got \[0\]"):
        dataclasses.replace(CONFIG, stop_ids=[0])
    with pytest.raises(ValueError, match="learn_equal_groups=False needs a group's"):
        PolicyMethod(learn_equal_groups=False)


def test_a_model_that_the_parameters_are_not_of():
    task = TASK.replace(prompts=jnp.asarray(PROMPTS))
    wrong = policy_optimization(resized(MODULE, vocab_size=5), CONFIG)
    for learner, params, message in (
        (wrong, PARAMS, r"'embed/embedding' has the shape \(5, 16\), got \(3, 16\)"),
        (LEARNER, {"params": PARAMS}, r'Give variables\["params"\]'),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(
                learner.algorithm.init, KEY, PolicyHyperparams(),
                task.replace(params=params),
            )  # fmt: skip


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (jnp.zeros((4, 1)), r"each of the 4 completions, got the shape \(4, 1\)"),
        (jnp.zeros(3), r"got the shape \(3,\)"),
        (1.0, "got float"),
        (None, "got NoneType"),
    ],
)
def test_rewards_of_tokens(rewards, message):
    with pytest.raises(ValueError, match=message):
        LEARNER.update(first_state(), TASK, drawn(), rewards)


def test_whole_numbers_are_rewards():
    def learned(samples):
        return learn_from(
            samples, samples.lengths, first_state().hyperparams, 0.0, CONFIG
        )

    assert jax.eval_shape(learned, drawn())[0].advantages.dtype == jnp.float32


def test_reward_models_of_other_tokens():
    for sizes, message in (
        ({"vocab_size": 2}, "policy's 3 tokens, got one that embeds 2"),
        ({"max_length": 5}, "context of 5 tokens, got up to 6"),
    ):
        reward = model_reward(RewardModel(resized(MODULE, **sizes).config))
        with pytest.raises(ValueError, match=message):
            reward(None, drawn())


def test_tokenizers_of_other_policies():
    on_text = text_training(LEARNER, ByteTokenizer(), ["a"] * 3, matches("a"))
    with pytest.raises(
        ValueError, match="tokenizer has 258 ids, but the policy embeds"
    ):
        on_text.algorithm.check(first_state(), TASK)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (lambda p, c: [1e300, 0.0], "returned 1e[+]300 for completion 0"),
        (lambda p, c: [[0.0], [1.0]], r"returned the shape \(2, 1\) for 2"),
        (lambda p, c: (x for x in c), "returned generator that holds no numbers"),
    ],
)
def test_rewards_of_texts_keep_what_was_sampled_by_whatever_fails(
    part, message, tmp_path
):
    for i, reward in enumerate((part, weighted_texts({matches("a"): 1.0, part: 2.0}))):
        with pytest.raises(RunError, match=message):
            checked_scores(reward, ["p", "q"], ["a", "b"], tmp_path / str(i))
        assert len(list((tmp_path / str(i)).iterdir())) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, r"above 0, got 0\.0"),
        ({"temperature": jnp.float32(0.0)}, r"above 0, got 0\.0"),
        ({"temperature": float("nan")}, "above 0, got nan"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"max_new_tokens": 6}, "8 tokens together, got 3 and 6"),
        ({"stop_ids": (3,)}, "tokens of the model's 3, got 3"),
        ({"prompt_lengths": LENGTHS[:2]}, r"a length and a key for each, got .*\(2,\)"),
        ({"keys": KEY}, r"Split a key"),
    ],
)
def test_generation(changes, message):
    given = {
        "prompts": PROMPTS, "prompt_lengths": LENGTHS, "keys": KEYS,
        "max_new_tokens": 2,
    } | changes  # fmt: skip
    with pytest.raises(ValueError, match=message):
        generate(MODULE, PARAMS, **given)


ROWS = Rankings.of(
    np.arange(32).reshape(4, 2, 4) % 3, np.full((4, 2), 4), starts=np.ones((4, 2))
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"lengths": ROWS.lengths.at[1, 0].set(0)},
            r"of row 1 the lengths are \[0, 4\]",
        ),
        (
            {"lengths": ROWS.lengths.at[1, 1].set(0)},
            r"of row 1 the lengths are \[4, 0\]",
        ),
        ({"lengths": ROWS.lengths + 1}, r"lengths must lie in \[0, 4\], .* got 5 to 5"),
        ({"ids": ROWS.ids - 1}, "the rows have token -1, but the model embeds only 3"),
        (
            {"probs": ROWS.probs.at[2].set(jnp.nan)},
            r"probs must lie in \[0, 1\], got nan",
        ),
        ({"probs": ROWS.probs + 1}, r"probs must lie in \[0, 1\], got 2"),
        ({"margins": ROWS.margins + jnp.inf}, "margins must lie in"),
        ({"ids": jnp.zeros((4, 2, 9), jnp.int32)}, "context of 8 tokens, got 9"),
    ],
)
def test_rows_of_direct_alignment(changes, message):
    algorithm = direct_alignment(MODULE, DirectConfig(loss="simpo", batch_size=4))
    state = TrainingState(KEY, 0, {}, None, DirectHyperparams())
    algorithm.check(state, DirectTask(ROWS, PARAMS))
    with pytest.raises(ValueError, match=message):
        algorithm.check(state, DirectTask(ROWS.replace(**changes), PARAMS))


def test_rows_of_labels():
    labels = np.array([1.0, 0.0, np.nan, 1.0])
    rows = LabelledCompletions(
        ROWS.ids, ROWS.lengths, ROWS.starts, labels, jnp.zeros((4, 2))
    )
    algorithm = direct_alignment(MODULE, DirectConfig(loss="kto", batch_size=4))
    state = TrainingState(KEY, 0, {}, None, DirectHyperparams())
    with pytest.raises(ValueError, match=r"labels must be bool, .* got float64"):
        algorithm.check(state, DirectTask(rows, PARAMS))
    rows = rows.replace(labels=labels > 0, lengths=rows.lengths.at[3, 1].set(0))
    with pytest.raises(ValueError, match=r"of row 3 the lengths are \[4, 0\]"):
        algorithm.check(state, DirectTask(rows, PARAMS))


def test_references_of_other_models():
    for module, params, message in (
        (MODULE, {"params": PARAMS}, r'Give variables\["params"\]'),
        (resized(MODULE, hidden_size=8), PARAMS, "has the shape"),
        (resized(MODULE, vocab_size=2), PARAMS, "token 2, but the model embeds only 2"),
        (
            Transformer(dataclasses.replace(world.CONFIG, max_length=3)),
            PARAMS,
            "of 3 tok",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            with_reference(module, params, ROWS)
