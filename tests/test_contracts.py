"""What every algorithm and every environment keeps; a new one joins the lists here."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import tiny_alignment

import rljax
from rljax.algorithms.networks import ActorCritic
from rljax.algorithms.ppo import PPOConfig, PPOHyperparams, ppo
from rljax.envs import (
    HARD_PLANT,
    CartPole,
    CartPoleParams,
    Thermostat,
    ThermostatParams,
    check_environment,
)
from rljax.rlhf import policy
from rljax.rlhf.models import Transformer, TransformerConfig
from rljax.training import checkpoint
from rljax.training.loop import train
from rljax.training.populations import population, replicate

ENVIRONMENTS = [
    (CartPole(), CartPoleParams()),
    (CartPole(semi_implicit=True), CartPoleParams(masspole=0.3, max_steps=20)),
    (Thermostat(), ThermostatParams()),
    (Thermostat(), HARD_PLANT.replace(disturbance=0.5, max_steps=20)),
    (probes.RewardFromBoth(), None),
    (probes.ContinuousTarget(), None),
]


class Case(NamedTuple):
    algorithm: Any
    hyperparams: Any
    task: Any


LANGUAGE_MODEL = Transformer(
    TransformerConfig(
        vocab_size=5,
        hidden_size=16,
        intermediate_size=24,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        max_length=8,
    )
)


def language_model_params():
    ids = jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(lambda key: LANGUAGE_MODEL.init(key, ids, method="logits"))
    return init(jax.random.key(0))["params"]


def share_of_token(token, samples):
    return (samples.completions == token).mean(axis=1)


@functools.cache
def policy_case():
    config = policy.PolicyConfig(
        method=policy.ppo().method,
        num_prompts=2,
        group_size=2,
        max_new_tokens=3,
        stop_ids=(4,),
        num_epochs=2,
        num_minibatches=2,
    )
    task = policy.PolicyTask(
        jnp.array([[0, 1], [2, 3], [3, 0]], jnp.int32),
        jnp.array([1, 2, 2], jnp.int32),
        language_model_params(),
        jnp.int32(2),
    )
    return Case(
        policy.policy_optimization(LANGUAGE_MODEL, config, share_of_token).algorithm,
        policy.ppo().hyperparams.replace(learning_rate=1e-3, decay_updates=20),
        task,
    )


@functools.cache
def ppo_case():
    config = PPOConfig(
        num_envs=4,
        num_steps=16,
        num_epochs=2,
        num_minibatches=2,
        normalize_observations=True,
        normalize_rewards=True,
    )
    network = ActorCritic(num_actions=2, hidden=(8,))
    hyperparams = PPOHyperparams(learning_rate=1e-3, decay_updates=20)
    return Case(ppo(CartPole(), network, config), hyperparams, CartPoleParams())


@functools.cache
def direct_case():
    return Case(*tiny_alignment.case())


# Made where they are first used: importing this computes nothing.
ALGORITHMS = {"policy": policy_case, "ppo": ppo_case, "direct_alignment": direct_case}


@pytest.fixture(params=sorted(ALGORITHMS))
def case(request):
    return ALGORITHMS[request.param]()


def first_state(algorithm):
    case = next(
        c for make in ALGORITHMS.values() if (c := make()).algorithm is algorithm
    )
    return jax.jit(algorithm.init)(jax.random.key(0), case.hyperparams, case.task)


@pytest.mark.some_cases(1)
@pytest.mark.parametrize(("env", "params"), ENVIRONMENTS)
def test_environment_contract(env, params, key):
    check_environment(env, params, key)


@pytest.mark.some_cases(1)
def test_a_step_keeps_the_types_of_its_state(case):
    state = first_state(case.algorithm)
    after, _ = jax.eval_shape(case.algorithm.step, state, case.task)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    assert not any(getattr(x, "weak_type", False) for x in jax.tree.leaves(state))


@pytest.mark.some_cases(1)
def test_metrics_are_means_and_finite_or_empty(case):
    _, metrics = jax.jit(case.algorithm.step)(first_state(case.algorithm), case.task)
    for name, mean in metrics.items():
        assert isinstance(mean, rljax.Mean), name
        assert jnp.isfinite(mean.total), name
        assert mean.weight >= 0, name


@pytest.mark.some_cases(1)
def test_training_twice_n_equals_training_n_saving_loading_and_training_n(
    case, tmp_path
):
    algorithm, _, task = case
    straight = train(algorithm, first_state(algorithm), task, 6)
    half = train(algorithm, first_state(algorithm), task, 3)
    checkpoint.save(tmp_path, 3, half, {})
    like = jax.eval_shape(algorithm.init, jax.random.key(0), case.hyperparams, task)
    loaded, _ = checkpoint.restore_latest(tmp_path, like)
    chex.assert_trees_all_equal(data(half), data(loaded))
    chex.assert_trees_all_equal(data(straight), data(train(algorithm, loaded, task, 3)))


@pytest.mark.some_cases(1)
def test_how_a_run_is_cut_into_chunks_changes_no_bit(case):
    algorithm, _, task = case
    whole = train(algorithm, first_state(algorithm), task, 6)
    for log_every in (1, 4):
        cut = train(algorithm, first_state(algorithm), task, 6, log_every=log_every)
        chex.assert_trees_all_equal(data(whole), data(cut))


@pytest.mark.some_cases(1)
def test_the_same_program_gives_the_same_bits(case):
    once = train(case.algorithm, first_state(case.algorithm), case.task, 3)
    again = train(case.algorithm, first_state(case.algorithm), case.task, 3)
    chex.assert_trees_all_equal(data(once), data(again))


@pytest.mark.slow
def test_a_population_member_equals_its_solo_run(case):
    algorithm, hyperparams, task = case
    many = population(algorithm)
    keys = jax.random.split(jax.random.key(5), 3)
    start = jax.jit(many.init)(keys, replicate(hyperparams, 3), task)
    states = train(many, start, task, 2)
    for i in range(3):
        key = jax.random.split(jax.random.key(5), 3)[i]
        alone = jax.jit(algorithm.init)(key, hyperparams, task)
        solo = train(algorithm, alone, task, 2)
        member = take(states, i)
        chex.assert_trees_all_equal(data(member.key), data(solo.key))
        if hasattr(start, "envs"):
            chex.assert_trees_all_equal(data(take(start, i).envs), data(alone.envs))
        chex.assert_trees_all_close(member.params, solo.params, rtol=1e-4, atol=1e-4)


@pytest.mark.some_cases(1)
def test_a_step_is_traced_once(case):
    algorithm, _, task = case
    step = jax.jit(chex.assert_max_traces(algorithm.step, n=1))
    state = first_state(algorithm)
    for _ in range(3):
        state, _ = step(state, task)


@pytest.mark.some_cases(1)
def test_no_tracer_leaks_out_of_a_step(case):
    with jax.checking_leaks():
        jax.jit(case.algorithm.step)(first_state(case.algorithm), case.task)


@pytest.mark.slow  # sweeps' tests train on two devices, too
def test_an_algorithm_trains_on_two_devices_as_on_one(case):
    algorithm, hyperparams, task = case
    many = population(algorithm)
    mesh = jax.make_mesh(
        (2,), ("population",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    members = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("population"))
    keys = jax.random.split(jax.random.key(5), 4)
    start = jax.jit(many.init)(keys, replicate(hyperparams, 4), task)
    one = train(many, start, task, 2)
    two = train(many, jax.device_put(start, members), task, 2)
    assert len(jax.tree.leaves(two.params)[0].devices()) == 2
    chex.assert_trees_all_close(one.params, two.params, rtol=1e-4, atol=1e-4)


def take(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def data(tree):
    """Typed keys as the bits they are, so that trees can be compared."""

    def plain(x):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return jax.tree.map(plain, tree)
