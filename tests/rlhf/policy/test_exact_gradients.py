"""Expected updates, over all completions or all groups of them, beside the exact gradient.

Nothing is sampled: `update` is mapped over everything that `sample` could return, and the
gradients are added up with the probabilities of these.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import policy_world as world
import pytest

from rljax.rlhf.policy import PolicyConfig, PolicyHyperparams, PolicyMethod, recipes
from rljax.rlhf.policy.policy_optimization import policy_optimization

pytestmark = pytest.mark.slow

BETA = 0.7
HYPERPARAMS = PolicyHyperparams(
    learning_rate=0.0, critic_learning_rate=0.0, max_grad_norm=np.inf, beta=BETA,
    gae_lambda=1.0,
)  # fmt: skip


def policy():
    return world.model_params(0)


def reference():
    return world.model_params(1)


@functools.cache
def all_samples():
    return jax.jit(world.all_samples)(policy(), reference())


def probs():
    return jnp.exp(all_samples().log_probs.sum(axis=1))


@pytest.fixture(scope="module")
def exact():
    """The gradient of the objective, of its reward alone, and of the divergence alone."""
    gradient = jax.jit(jax.grad(world.objective))
    whole = gradient(policy(), reference(), world.REWARDS, BETA)
    reward = gradient(policy(), reference(), world.REWARDS, 0.0)
    divergence = jax.tree.map(lambda a, b: (a - b) / BETA, reward, whole)
    return whole, reward, divergence


def expected_step(method, group_size, rows, rewards, weights, critic=None):
    """Minus the gradient of an update's loss, mapped over `[K, group_size]` rows."""
    config = PolicyConfig(
        method=method, num_prompts=1, group_size=group_size,
        max_new_tokens=world.T, stop_ids=(world.STOP,),
    )  # fmt: skip
    learner = policy_optimization(world.MODULE, config)
    task, params, every = world.task(reference()), policy(), all_samples()

    @jax.jit
    def step():
        state = learner.algorithm.init(jax.random.key(0), HYPERPARAMS, task)
        state = state.replace(params=params)
        samples = jax.tree.map(lambda x: x[rows], every)
        if critic is not None:
            state = state.replace(critic=critic(state.critic))
            values = 0.3 * jnp.arange(3.0)[None] + jnp.zeros(world.MASK.shape)
            samples = samples.replace(values=(values * world.MASK)[rows])
        after, metrics = jax.vmap(learner.update, in_axes=(None, None, 0, 0))(
            state, task, samples, rewards
        )
        return world.gradient_of(after), metrics

    gradients, metrics = step()
    return world.weighted_sum(gradients, -weights), metrics


def alone(method, critic=None):
    """Every completion in a batch of its own."""
    rows = np.arange(world.COUNT)[:, None]
    return expected_step(method, 1, rows, world.REWARDS[rows], probs(), critic)


def in_pairs(method):
    """Every two completions as a group."""
    first, second = np.divmod(np.arange(world.COUNT**2), world.COUNT)
    rows = np.stack([first, second], axis=1)
    weights = probs()[first] * probs()[second]
    return expected_step(method, 2, rows, world.REWARDS[rows], weights)


def plain(**choices):
    return PolicyMethod(kl="none", **choices)


def test_reinforce_with_the_divergence_in_the_reward(exact):
    step, metrics = alone(PolicyMethod())
    assert world.distance(exact[0], step) < 1e-5
    want = np.log(probs()) - np.asarray(world.completion_log_probs(reference()))
    np.testing.assert_allclose(metrics["kl"].value, want, rtol=1e-4, atol=1e-5)
    assert metrics["ratio_deviation_first"].value.max() < 1e-5


@pytest.mark.parametrize("clip", ["two_sided", "truncated"])
@pytest.mark.parametrize("ratio", ["token", "sequence_sum"])
def test_on_policy_every_ratio_has_the_gradient_of_none(ratio, clip, exact):
    if ratio == "token":
        method = PolicyMethod(ratio=ratio, clip=clip)
    elif clip == "truncated":
        pytest.skip("log pi is of tokens: that of a sequence is their sum")
    else:
        method = PolicyMethod(ratio=ratio, aggregation="sequences")
    assert world.distance(exact[0], alone(method)[0]) < 1e-5


def test_a_leave_one_out_baseline_has_no_bias(exact):
    assert world.distance(exact[0], in_pairs(recipes.rloo().method)[0]) < 1e-5


def test_a_groups_mean_shortens_the_gradient_and_a_constant_divides_it(exact):
    step, _ = in_pairs(recipes.dr_grpo().method)
    # (K - 1) / K of it, K = 2, over the most tokens there may be.
    want = jax.tree.map(lambda x: x / 2 / world.T, exact[1])
    assert world.distance(want, step) < 1e-5


def test_a_groups_deviation_makes_the_gradient_of_another_objective(exact):
    """Of two, the better gets 1 / sqrt(2) and the worse minus it, less the eps."""
    method = PolicyMethod(
        kl="whole", kl_estimator="exact", baseline="group", scale="group"
    )
    step, metrics = in_pairs(method)
    apart = world.REWARDS[:, None] - world.REWARDS[None]
    deviation = np.abs(apart) / np.sqrt(2) + 1e-4
    gains = (apart / 2 / deviation) @ np.asarray(probs())

    def objective(params):
        return world.objective(params, reference(), gains, BETA)

    want = jax.jit(jax.grad(objective))(policy())
    assert world.distance(want, step) < 1e-5
    assert world.distance(exact[0], step) > 0.1
    assert metrics["equal_groups"].value.sum() == world.COUNT


@pytest.mark.parametrize("critic", ["head", "separate"])
def test_with_a_critic_and_lambda_1_whatever_it_expects(critic, exact):
    method = PolicyMethod(ratio="token", critic=critic)

    def shifted(params):
        return params | {"head": jax.tree.map(lambda x: x + 0.3, params["head"])}

    assert world.distance(exact[0], alone(method, shifted)[0]) < 1e-5


def test_the_exact_divergence_can_have_the_whole_gradient(exact):
    step, metrics = alone(PolicyMethod(kl="whole", kl_estimator="exact"))
    assert world.distance(exact[0], step) < 1e-5
    mean = (metrics["kl"].value * probs()).sum()
    log_pi = np.log(np.float64(probs()))
    log_ref = np.float64(world.completion_log_probs(reference()))
    assert mean == pytest.approx(
        (np.float64(probs()) * (log_pi - log_ref)).sum(), rel=1e-5
    )


@pytest.fixture(scope="module")
def direct():
    """The gradient of each token's divergence, given the tokens before it."""
    weights, of_reference = probs()[:, None], world.token_table(reference())

    def given_what_comes_before(params):
        table = world.token_table(params)
        divergence = jnp.exp(table) * (table - of_reference)
        divergence = jnp.where(world.MASK, divergence.sum(axis=-1), 0.0)
        return (weights * divergence).sum()

    return jax.jit(jax.grad(given_what_comes_before))(policy())


@pytest.mark.parametrize("ratio", ["none", "token", "sequence_mean", "sequence_sum"])
def test_k3_in_the_loss_is_of_tokens_whatever_the_ratio(ratio, direct):
    method = PolicyMethod(kl="loss", kl_estimator="k3", ratio=ratio)
    rows = np.arange(world.COUNT)[:, None]
    step, _ = expected_step(method, 1, rows, jnp.zeros(rows.shape), probs())
    want = jax.tree.map(lambda x: -BETA * x, direct)
    assert world.distance(want, step) < 1e-4


@pytest.mark.parametrize("estimator", ["k2", "k3", "exact"])
def test_in_the_loss_a_divergence_leaves_out_which_tokens_come_before(
    estimator, exact, direct
):
    step, _ = alone(PolicyMethod(kl="loss", kl_estimator=estimator))
    want = jax.tree.map(lambda a, b: a - BETA * b, exact[1], direct)
    assert world.distance(want, step) < 1e-4
    assert world.distance(exact[2], direct) > 0.1


def test_penalties_are_subtracted_from_rewards():
    hyperparams = PolicyHyperparams(
        stop_penalty=0.5, length_penalty=2.0, length_buffer=2.0
    )
    from rljax.rlhf.policy.experience import penalties

    want = [0.0, 1.0, 2.0]  # of 1, 2 and 3 tokens, two of them in the buffer
    want = np.array(want)[world.LENGTHS - 1] + 0.5 * ~world.STOPPED
    np.testing.assert_allclose(penalties(all_samples(), hyperparams), want)
    want = 2.0 * (world.LENGTHS == world.T) + 0.5 * ~world.STOPPED
    hyperparams = hyperparams.replace(length_buffer=0.0)
    np.testing.assert_allclose(penalties(all_samples(), hyperparams), want)


def test_what_did_not_stop_can_be_left_out():
    method = dataclasses.replace(plain(), learn_unstopped=False)
    gains = jnp.where(world.STOPPED, world.REWARDS, 0.0)
    step, _ = alone(method)

    def objective(params):
        return (jnp.exp(world.completion_log_probs(params)) * gains).sum()

    assert world.distance(jax.jit(jax.grad(objective))(policy()), step) < 1e-5
