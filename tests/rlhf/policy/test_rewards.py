import json

import jax
import jax.numpy as jnp
import numpy as np
import policy_world as world
import pytest

from rljax.envs import check_environment
from rljax.rlhf.data import ByteTokenizer
from rljax.rlhf.evaluation.ensembles import ensemble_lower, ensemble_mean, ensemble_min
from rljax.rlhf.models import RewardModel, stack_ensemble
from rljax.rlhf.policy import rewards
from rljax.rlhf.policy.bandit import BanditParams, Completion, Prompt, PromptBandit
from rljax.rlhf.policy.rewards.text_rewards import checked_scores
from rljax.rlhf.policy.text_training import completion_texts
from rljax.training.files import RunError

MODULE = RewardModel(world.CONFIG)


@pytest.fixture(scope="module")
def samples():
    params = world.model_params(0)
    return jax.jit(world.all_samples)(params, params)


@pytest.fixture(scope="module")
def variables():
    row = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    init = jax.jit(jax.vmap(lambda key: MODULE.init(key, *row)))
    return init(jax.random.split(jax.random.key(0), 3))


@pytest.mark.slow
def test_a_reward_models_scores_are_the_rewards(samples, variables):
    first = jax.tree.map(lambda x: x[0], variables)
    whole = jax.jit(rewards.model_reward(MODULE))(first, samples)
    for i in (0, 3, 14):
        ids = samples.ids[i : i + 1, : samples.lengths[i]]
        score = MODULE.apply(first, ids, samples.lengths[i : i + 1])
        np.testing.assert_allclose(whole[i], score[0], atol=1e-5)
    parts = jax.jit(rewards.model_reward(MODULE, 4))(first, samples)
    np.testing.assert_allclose(whole, parts, atol=1e-5)
    assert rewards.model_reward(MODULE) is rewards.model_reward(MODULE)


@pytest.mark.slow
def test_an_ensemble_is_combined_as_the_evaluation_has_it(samples, variables):
    one_by_one = [jax.tree.map(lambda x, i=i: x[i], variables) for i in range(3)]
    score = jax.jit(rewards.model_reward(MODULE))
    members = np.stack([score(v, samples) for v in one_by_one], axis=1)
    centres = np.float32([0.1, -2.0, 3.0])
    params = rewards.Ensemble(stack_ensemble(one_by_one), jnp.asarray(centres), 0.7)
    for combine, want in (
        ("mean", ensemble_mean(members, centres)),
        ("worst", ensemble_min(members, centres)),
        ("lower", ensemble_lower(members, centres, coef=0.7)),
    ):
        got = jax.jit(rewards.ensemble_reward(MODULE, combine))(params, samples)
        np.testing.assert_allclose(got, want, atol=1e-5)
    with pytest.raises(ValueError, match="combine must be mean, worst or lower"):
        rewards.ensemble_reward(MODULE, "best")
    with pytest.raises(ValueError, match="must be stacked, got those of one model"):
        jax.eval_shape(
            rewards.ensemble_reward(MODULE, "mean"),
            params.replace(variables=one_by_one[0]),
            samples,
        )


def test_targets_are_compared_token_by_token(samples):
    wanted = rewards.Targets(jnp.array([[1, 0, 2, 0]]), jnp.array([3]))
    exact = np.asarray(rewards.equals_target(wanted, samples))
    assert [world.COMPLETIONS[i] for i in np.flatnonzero(exact)] == [(1, 0, 2)]
    share = np.asarray(rewards.share_of_target(wanted, samples))
    for ids, got in zip(world.COMPLETIONS, share, strict=True):
        right = sum(a == b for a, b in zip(ids, (1, 0, 2), strict=False))
        assert got == pytest.approx(right / 3)


def test_rewards_add_up_and_what_did_not_stop_has_a_fixed_one(samples):
    wanted = rewards.Targets(jnp.array([[1, 0, 2]]), jnp.array([3]))
    both = rewards.weighted_sum(rewards.equals_target, rewards.share_of_target)
    params = rewards.Weighted((wanted, wanted), (2.0, -1.0))
    want = 2 * rewards.equals_target(wanted, samples)
    want -= rewards.share_of_target(wanted, samples)
    np.testing.assert_allclose(both(params, samples), want)
    stops = rewards.unless_stopped(both)(rewards.IfUnstopped(params, -5.0), samples)
    np.testing.assert_allclose(stops, np.where(world.STOPPED, want, -5.0))
    with pytest.raises(ValueError, match="of 2 rewards needs as many params"):
        both(rewards.Weighted((wanted,), (2.0,)), samples)


def length_and_reward(params, samples):
    return params * samples.num_learned + 10.0 * samples.stopped + samples.ids[:, 0]


def test_the_bandit_is_an_environment_and_gives_the_rewards(samples, key):
    env = PromptBandit(length_and_reward, world.VOCABULARY, world.T, (world.STOP,))
    prompts = jnp.array([[0, 1], [2, 0], [0, 2]], jnp.int32)
    params = BanditParams(prompts, jnp.array([1, 2, 1]), jnp.float32(0.5))
    check_environment(env, params, key)
    start = len(world.PROMPT)
    prompt = Prompt(jnp.array(world.PROMPT), jnp.int32(start), jnp.int32(0))
    actions = Completion(samples.ids[:, start:], samples.num_learned)
    step = jax.vmap(env.step, in_axes=(None, None, 0, None))
    _, timestep = jax.jit(step)(key, prompt, actions, params)
    want = length_and_reward(params.reward, samples)
    np.testing.assert_allclose(timestep.reward, want)
    assert timestep.terminated.all()
    assert not timestep.truncated.any()


def test_texts_end_before_the_stop_token(samples):
    shifted = samples.replace(ids=samples.ids + 97)
    texts = completion_texts(ByteTokenizer(), shifted, (97 + world.STOP,))
    for ids, text in zip(world.COMPLETIONS, texts, strict=True):
        assert text == "".join("abc"[i] for i in ids if i != world.STOP)


def test_arithmetic():
    prompts = ["1 + 2 * 3 = ", "Let (4 - 6) * 5 be", "first 8, then 17 // 5 ="]
    assert rewards.arithmetic(prompts, ["7", " -10 it is", "3."]) == [1.0, 1.0, 1.0]
    assert rewards.arithmetic(prompts, ["9", "10", "3.5"]) == [0.0, 0.0, 0.0]
    assert rewards.arithmetic(["What is -(2 + 3)?", "-4 * 2"], ["-5", "-8"]) == [1, 1]
    for prompt in ("nothing", "1 / 2", "2 ** 99999", "1 // 0", "1,000 + 1", "2.5"):
        with pytest.raises(ValueError, match="prompt"):
            rewards.arithmetic([prompt], ["1"])


def raises(prompts, completions):
    raise KeyError("no such answer")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (raises, "raises raised KeyError: 'no such answer'"),
        (lambda p, c: [1.0], r"returned the shape \(1,\) for 2 completions"),
        (lambda p, c: ["a", "b"], "returned list that holds no numbers"),
        (lambda p, c: [0.0, np.nan], "returned nan for completion 1"),
        (lambda p, c: [np.inf, 0.0], "returned inf for completion 0"),
    ],
)
def test_a_reward_that_fails_keeps_what_was_sampled(reward, message, tmp_path):
    with pytest.raises(RunError, match=message) as error:
        checked_scores(reward, ["p", "q"], ["é", 'a "b"\n'], tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    assert str(file) in str(error.value)
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == ["p", "q"]
    assert [row["completion"] for row in rows] == ["é", 'a "b"\n']
    with pytest.raises(RunError, match="were not kept"):
        checked_scores(reward, ["p", "q"], ["a", "b"], None)
