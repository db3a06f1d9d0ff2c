import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import policy_world as world
import pytest

from rljax.rlhf.models import HeadOnly, LastLayers, Lora, LoraOnly
from rljax.rlhf.policy import (
    PolicyConfig,
    PolicyHyperparams,
    PolicyMethod,
    PolicyTask,
    policy_optimization,
    recipes,
)
from rljax.rlhf.policy.experience import learn_from
from rljax.rlhf.training import trained_params
from rljax.training import checkpoint
from rljax.training.loop import train
from rljax.training.populations import reusable

PARAMS = world.model_params(0)
PROMPTS = np.array([[0, 0, 1], [0, 1, 0], [2, 0, 1], [0, 2, 2], [1, 0, 0], [0, 0, 2]])
TASK = PolicyTask(
    jnp.asarray(PROMPTS, jnp.int32), jnp.array([1, 2, 3, 2, 3, 1]), PARAMS, jnp.int32(1)
)
SIZES = {
    "num_prompts": 4, "group_size": 4, "max_new_tokens": world.T,
    "stop_ids": (world.STOP,),
}  # fmt: skip
METHOD = dataclasses.replace(recipes.rloo().method, critic="none")
CONFIG = PolicyConfig(method=METHOD, **SIZES)


def share_of(token, samples):
    """The share of a completion's tokens that are this one."""
    of_token = (samples.completions == token) & samples.mask
    return of_token.sum(axis=1) / samples.num_learned


def start(learner, hyperparams=None, task=TASK):
    hyperparams = hyperparams or PolicyHyperparams(learning_rate=3e-3)
    return jax.jit(learner.algorithm.init)(jax.random.key(0), hyperparams, task)


@pytest.fixture(scope="module")
def learner():
    return policy_optimization(world.MODULE, CONFIG, share_of)


@pytest.fixture(scope="module")
def drawn(learner):
    numbers = PolicyHyperparams(temperature=0.7, learning_rate=1e-2)
    state = start(learner, numbers)
    # The policy is no longer the reference.
    state = state.replace(params=world.model_params(1))
    after, samples = jax.jit(learner.sample)(state, TASK)
    return state, after, samples


@pytest.mark.slow
def test_a_row_is_a_prompt_with_its_completion(drawn):
    _, _, samples = drawn
    assert samples.ids.shape == (16, 3 + world.T)
    index = np.asarray(samples.prompt_index).reshape(4, 4)
    assert (index == index[:, :1]).all()
    assert len(set(index[:, 0])) == 4
    completions = np.asarray(samples.completions)
    for i, row in enumerate(np.asarray(samples.ids)):
        prompt = PROMPTS[samples.prompt_index[i]][-samples.starts[i] :]
        length = int(samples.num_learned[i])
        want = [*prompt, *completions[i, :length], *(0,) * 6][:6]
        np.testing.assert_array_equal(row, want)
        stops = np.flatnonzero(completions[i] == world.STOP)
        assert samples.stopped[i] == bool(len(stops))
        assert length == (stops[0] + 1 if len(stops) else world.T)


def test_log_probs_are_those_of_the_policy_and_of_the_reference(drawn):
    state, _, samples = drawn
    places = np.arange(world.T)
    for params, got in (
        (state.params, samples.log_probs),
        (PARAMS, samples.reference_log_probs),
    ):
        logits = world.MODULE.apply({"params": params}, samples.ids, method="logits")
        table = np.asarray(jax.nn.log_softmax(logits / 0.7))
        for i, row in enumerate(np.asarray(samples.ids)):
            length, first = int(samples.num_learned[i]), int(samples.starts[i])
            want = [table[i, first + t - 1, row[first + t]] for t in range(length)]
            np.testing.assert_allclose(got[i, :length], want, atol=1e-4)
            np.testing.assert_array_equal(got[i, length:], 0 * places[length:])


@pytest.mark.slow
def test_the_first_ratio_is_1_and_is_reported_if_it_is_not(learner, drawn):
    _, state, samples = drawn
    update = jax.jit(learner.update)
    _, metrics = update(reusable(state), TASK, samples, jnp.arange(16.0))
    assert float(metrics["ratio_deviation_first"].value) < 1e-4
    wrong = state.replace(hyperparams=state.hyperparams.replace(temperature=1.0))
    _, metrics = update(reusable(wrong), TASK, samples, jnp.arange(16.0))
    assert float(metrics["ratio_deviation_first"].value) > 0.1


@pytest.mark.slow
def test_a_step_is_sample_reward_and_update(learner):
    state = start(learner)
    stepped, metrics = jax.jit(learner.algorithm.step)(reusable(state), TASK)
    between, samples = jax.jit(learner.sample)(reusable(state), TASK)
    rewards = share_of(TASK.reward, samples)
    updated, again = jax.jit(learner.update)(between, TASK, samples, rewards)
    for a, b in zip(
        jax.tree.leaves(stepped.params), jax.tree.leaves(updated.params), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert metrics.keys() == again.keys()
    assert float(metrics["reward"].value) == pytest.approx(float(rewards.mean()))


def test_rewards_rise_and_what_is_saved_goes_on_bit_for_bit(learner, tmp_path):
    first = start(learner)
    rewards = []

    def log(state, entry):
        rewards.append(float(entry.metrics["reward"]))

    straight = train(learner.algorithm, first, TASK, 30, log_every=10, on_log=log)
    assert rewards[-1] > rewards[0] + 0.2
    checkpoint.save(tmp_path, 10, train(learner.algorithm, first, TASK, 10), {})
    restored, _ = checkpoint.restore_latest(tmp_path, jax.eval_shape(lambda: first))
    again = train(learner.algorithm, restored, TASK, 20)
    for a, b in zip(
        jax.tree.leaves(straight.params), jax.tree.leaves(again.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_microbatches_have_the_gradient_of_the_minibatch(drawn):
    _, state, samples = drawn
    method = PolicyMethod(
        kl="loss", kl_estimator="k3", baseline="group", ratio="token",
        aggregation="tokens",
    )  # fmt: skip
    rewards = jax.random.normal(jax.random.key(3), (16,))
    found = []
    for parts, lengths in ((1, ()), (4, (4, 6))):
        config = PolicyConfig(
            method=method, num_microbatches=parts, lengths=lengths, **SIZES
        )
        learner = policy_optimization(world.MODULE, config)
        after, metrics = jax.jit(learner.update)(
            reusable(state), TASK, samples, rewards
        )
        found.append((world.gradient_of(after), metrics))
    (whole, metrics), (parts, part_metrics) = found
    assert world.distance(whole, parts) < 1e-5
    for name, mean in metrics.items():
        assert float(mean.value) == pytest.approx(
            float(part_metrics[name].value), rel=1e-4, abs=1e-5
        ), name


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [LastLayers(1), LoraOnly(Lora(rank=2))])
def test_a_part_of_the_policy_can_be_trained(trainable):
    config = PolicyConfig(
        method=recipes.ppo().method, trainable=trainable, num_epochs=2,
        num_minibatches=2, **SIZES,
    )  # fmt: skip
    learner = policy_optimization(world.MODULE, config, share_of)
    state = start(learner, PolicyHyperparams(learning_rate=1e-2))
    after, metrics = jax.jit(learner.algorithm.step)(state, TASK)
    after, metrics = jax.jit(learner.algorithm.step)(after, TASK)
    assert float(metrics["ratio_deviation_first"].value) < 1e-4
    assert float(metrics["kl"].value) != 0.0
    params = trained_params(world.MODULE, trainable, after, TASK)
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, PARAMS)
    assert not moved["embed"]["embedding"]
    assert moved["layers"]["q"]["kernel"]
    with pytest.raises(ValueError, match="got HeadOnly, which has none"):
        PolicyConfig(trainable=HeadOnly())


AGGREGATIONS = ("tokens", "sequences", "sums", "constant")


@pytest.mark.slow
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_groups_of_equal_scores_can_be_left_out(aggregation, drawn):
    """As if the other groups had been all."""
    _, state, samples = drawn
    method = PolicyMethod(
        kl="loss", kl_estimator="k3", baseline="group", scale="group", ratio="token",
        aggregation=aggregation, learn_unstopped=False, learn_equal_groups=False,
    )  # fmt: skip
    rewards = np.random.default_rng(0).normal(size=16).astype(np.float32)
    equal = np.repeat([True, False, True, False], 4)

    def batch(rows, rewards):
        config = PolicyConfig(method=method, num_microbatches=1, **SIZES)
        given = jax.tree.map(lambda x: x[rows], samples), jnp.asarray(rewards[rows])
        experience, _ = learn_from(*given, state.hyperparams, state.beta, config)
        return experience.as_minibatch(method, world.T)

    some = batch(np.arange(16), np.where(equal, 0.3, rewards).astype(np.float32))
    others = batch(np.flatnonzero(~equal), rewards)
    assert not some.weights[equal].any()
    assert (some.weights[~equal] > 0).any()
    np.testing.assert_allclose(some.weights[~equal], others.weights, rtol=1e-6)
    np.testing.assert_allclose(some.advantages[~equal], others.advantages, rtol=1e-5)
    assert not batch(np.arange(16), np.ones(16, np.float32)).weights.any()


@pytest.mark.slow
def test_a_shared_critic_trains_the_policys_layers_too(drawn):
    samples = drawn[2]
    method = PolicyMethod(kl="none", critic="shared")
    learner = policy_optimization(world.MODULE, PolicyConfig(method=method, **SIZES))
    numbers = PolicyHyperparams(
        learning_rate=0.0,
        critic_learning_rate=0.0,
        max_grad_norm=np.inf,
        gae_lambda=1.0,
    )
    rng = np.random.default_rng(0)
    head = {"kernel": rng.normal(size=(16, 1)), "bias": np.array([0.3])}
    head = jax.tree.map(jnp.float32, head)
    values = jnp.where(samples.mask, jnp.float32(rng.normal(size=(16, world.T))), 0.0)
    rewards = jnp.float32(rng.normal(size=16))

    @jax.jit
    def gradient(vf_coef):
        state = learner.algorithm.init(jax.random.key(0), numbers, TASK)
        state = state.replace(
            critic={"head": head},
            hyperparams=state.hyperparams.replace(vf_coef=vf_coef),
        )
        after, _ = learner.update(state, TASK, samples.replace(values=values), rewards)
        return world.gradient_of(after)

    found = jax.tree.map(jnp.subtract, gradient(1.0), gradient(0.0))

    @jax.jit
    @jax.grad
    def want(params):
        """With lambda = 1 a completion's reward is what every token is to expect."""
        hidden = world.MODULE.apply({"params": params}, samples.ids)
        total = 0.0
        for i in range(16):
            places = samples.starts[i] - 1 + jnp.arange(world.T)
            expected = (hidden[i, places] @ head["kernel"])[:, 0] + head["bias"]
            errors = (expected - rewards[i]) ** 2 / 2
            total += jnp.where(samples.mask[i], errors, 0.0).sum()
        return total / samples.mask.sum()

    want = want(PARAMS)
    del want["lm_head"], found["lm_head"]  # which no hidden state depends on
    assert world.distance(want, found) < 1e-4


def test_beta_follows_the_divergence(learner, drawn):
    _, state, samples = drawn
    for target, factor in ((1e-3, 1.2), (1e3, 0.8), (np.inf, 1.0)):
        numbers = state.hyperparams.replace(
            kl_target=jnp.float32(target), kl_horizon=jnp.float32(16.0)
        )
        after, _ = jax.jit(learner.update)(
            reusable(state.replace(hyperparams=numbers)), TASK, samples, jnp.zeros(16)
        )
        assert float(after.beta) == pytest.approx(float(state.beta) * factor)


def test_what_cannot_be_is_refused(learner):
    for choices, message in (
        ({"kl": "loss"}, "kl='loss' needs kl_estimator k2 or k3 or exact, got 'k1'"),
        ({"kl_estimator": "k3"}, "kl='reward' needs kl_estimator k1, got 'k3'"),
        ({"baseline": "mean"}, "baseline must be one of none, batch, group"),
        (
            {"kl": "whole", "kl_estimator": "exact", "ratio": "sequence_sum"},
            "has an advantage for each token",
        ),
        (
            {"kl": "whole", "kl_estimator": "exact", "whiten": True, "critic": "head"},
            "must not be scaled in part",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            PolicyMethod(**choices)
    for changes, message in (
        (
            {"group_size": 1},
            "group_size must be at least 2 for baseline='leave_one_out'",
        ),
        ({"num_microbatches": 3}, "must divide num_prompts \\* group_size"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a positive integer"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(CONFIG, **changes)
    with pytest.raises(ValueError, match=r"at least 2 where advantages are compared"):
        PolicyConfig(method=PolicyMethod(baseline="batch"), num_prompts=1, group_size=1)
    for changes, message in (
        ({"max_new_tokens": 8}, "leave room for a prompt in the model's 8 tokens"),
        ({"stop_ids": (3,)}, r"stop_ids must be ids of the model, in \[0, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            policy_optimization(world.MODULE, dataclasses.replace(CONFIG, **changes))
    state = jax.eval_shape(
        learner.algorithm.init, jax.random.key(0), PolicyHyperparams(), TASK
    )
    state = state.replace(hyperparams=PolicyHyperparams())
    for task, message in (
        (TASK.replace(prompt_lengths=jnp.arange(6)), "but prompt 0 has 0"),
        (TASK.replace(prompts=TASK.prompts[:3]), "one number for each of 3 prompts"),
        (
            TASK.replace(
                prompts=TASK.prompts[:3], prompt_lengths=TASK.prompt_lengths[:3]
            ),
            "at most the 3 prompts there are, got 4",
        ),
        (
            TASK.replace(prompts=jnp.zeros((6, 6), jnp.int32)),
            "must fit into the model's 8 tokens, got 6",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            learner.algorithm.check(state, task)
    wrong = state.replace(hyperparams=PolicyHyperparams(temperature=0.0))
    with pytest.raises(ValueError, match="temperature must lie in"):
        learner.algorithm.check(wrong, TASK)
    without = policy_optimization(world.MODULE, CONFIG)
    with pytest.raises(ValueError, match="has no reward of tokens"):
        jax.eval_shape(without.algorithm.step, state, TASK)
