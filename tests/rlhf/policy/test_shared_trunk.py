import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import policy_world as world
import pytest

from rljax.rlhf.models import LastLayers, RewardModel, Transformer
from rljax.rlhf.policy import (
    PolicyConfig,
    PolicyHyperparams,
    PolicyMethod,
    PolicyTask,
    policy_optimization,
)
from rljax.rlhf.policy.rewards import (
    TrunkHeads,
    model_reward,
    trunk_reward,
    with_question,
)

# A window that differs from block to block tells whether the right ones are run.
SHAPE = dataclasses.replace(
    world.CONFIG, num_layers=3, windows=(2, 0, 3), max_length=16
)
MODULE = Transformer(SHAPE)
QUESTION = (1, 0, 0)
CONFIG = PolicyConfig(
    num_prompts=4, group_size=4, max_new_tokens=4, stop_ids=(2,),
    trainable=LastLayers(2), question=QUESTION,
)  # fmt: skip
EXACT_IN_PARTS = dataclasses.replace(
    CONFIG,
    method=PolicyMethod(kl="whole", kl_estimator="exact", critic="head"),
    num_minibatches=2,
    num_microbatches=2,
    lengths=(5, 7),
)


@pytest.fixture(scope="module")
def task():
    key, head_key = jax.random.split(jax.random.key(0))
    ids = jnp.zeros((1, 1), jnp.int32)
    params = jax.jit(lambda k: MODULE.init(k, ids, method="logits"))(key)["params"]
    params = jax.tree.map(lambda x: 5 * x if x.ndim > 2 else x, params)
    heads = TrunkHeads(
        norm=params["norm"],
        kernels=jax.random.normal(head_key, (3, SHAPE.hidden_size)),
        biases=jnp.array([0.1, -0.2, 0.3]),
        coef=0.5,
    )
    prompts = jnp.array([[0, 0, 1], [0, 1, 0], [2, 0, 1], [0, 2, 2], [1, 0, 0]])
    return PolicyTask(prompts, jnp.array([1, 2, 3, 2, 3]), params, heads)


@pytest.fixture(scope="module")
def drawn(task):
    return start_and_sample(CONFIG, task)


def start_and_sample(config, task):
    learner = policy_optimization(MODULE, config, trunk_reward(MODULE))
    hyperparams = PolicyHyperparams(learning_rate=1e-2, beta=0.3)
    state = jax.jit(learner.algorithm.init)(jax.random.key(1), hyperparams, task)
    # Not the reference any more.
    moved = jax.tree.map(lambda x: x * 1.1, state.params)
    return learner, *jax.jit(learner.sample)(state.replace(params=moved), task)


@pytest.mark.parametrize(
    "config", [CONFIG, pytest.param(EXACT_IN_PARTS, marks=pytest.mark.slow)]
)
def test_the_shared_trunk_changes_nothing_that_is_learned(config, task):
    apart = dataclasses.replace(config, share_trunk=False, question=())
    rewards = jnp.arange(16.0) % 5
    after = []
    for one in (config, apart):
        learner, state, samples = start_and_sample(one, task)
        state, metrics = jax.jit(learner.update)(state, task, samples, rewards)
        numbers = samples.reference_log_probs, samples.kl, metrics["loss"].value
        after.append((state.params, state.critic, numbers))
    assert not np.allclose(samples.log_probs, samples.reference_log_probs, atol=0.01)
    for shared, own in zip(*map(jax.tree.leaves, after), strict=True):
        np.testing.assert_allclose(shared, own, atol=2e-5)


def test_the_reward_is_that_of_a_reward_model_of_these_blocks(task, drawn):
    _, _, samples = drawn
    rewards = jax.jit(trunk_reward(MODULE))(task.reward, samples)
    shape = dataclasses.replace(SHAPE, num_layers=1, windows=SHAPE.windows[:1])
    model = RewardModel(shape, use_bias=True)
    trunk = {name: task.params[name] for name in ("embed", "norm")}
    trunk["layers"] = jax.tree.map(lambda x: x[:1], task.params["layers"])
    for i in np.argsort(samples.lengths)[[0, 7, 15]]:
        length = samples.lengths[i]
        ids = jnp.array([[*samples.ids[i, :length].tolist(), *QUESTION]])
        scores = []
        for kernel, bias in zip(task.reward.kernels, task.reward.biases, strict=True):
            head = {"kernel": kernel[:, None], "bias": bias[None]}
            scale = {"mean": jnp.float32(0), "std": jnp.float32(1)}
            variables = {"params": {"trunk": trunk, "head": head}, "scale": scale}
            scores.append(model.apply(variables, ids, jnp.array([ids.shape[1]]))[0])
        want = np.mean(scores) - 0.5 * np.std(scores)
        np.testing.assert_allclose(rewards[i], want, atol=1e-4)
    asked = jax.jit(with_question(model_reward(model), QUESTION))(variables, samples)
    np.testing.assert_allclose(asked[i], scores[-1], atol=1e-4)


def test_a_reward_on_a_trunk_needs_one(task, drawn):
    with pytest.raises(ValueError, match="Train LastLayers, with share_trunk"):
        trunk_reward(MODULE)(task.reward, drawn[2].replace(trunk_last=None))
    with pytest.raises(ValueError, match="question needs a trunk"):
        PolicyConfig(question=QUESTION)
    wrong = dataclasses.replace(CONFIG, question=(3,))
    with pytest.raises(ValueError, match="question must be ids of the model"):
        policy_optimization(MODULE, wrong)
    too_long = dataclasses.replace(CONFIG, question=(1,) * 10)
    learner = policy_optimization(MODULE, too_long)
    hyperparams = PolicyHyperparams()
    state = jax.jit(learner.algorithm.init)(jax.random.key(1), hyperparams, task)
    with pytest.raises(ValueError, match=r"got 3 \+ 4 \+ 10 of the question"):
        learner.algorithm.check(state, task)
