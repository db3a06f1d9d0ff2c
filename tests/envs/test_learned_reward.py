"""An environment with a learned reward is the environment in all but the reward."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

import rljax
from rljax.algorithms import ppo
from rljax.algorithms.networks import ActorCritic
from rljax.envs import CartPole, CartPoleParams, ParamsPerEnv, Thermostat
from rljax.envs.hooks import find_hook, find_owner
from rljax.envs.learned_reward import LearnedReward, LearnedRewardParams, with_reward
from rljax.envs.thermostat import ThermostatParams, bang_bang
from rljax.envs.vector import VectorEnv
from rljax.rlhf.segments import make_reward_network
from rljax.rollouts.rollout import evaluate, record, unroll
from rljax.rollouts.simulation import simulate
from rljax.training.loop import train
from rljax.training.populations import stack


@dataclasses.dataclass(frozen=True)
class TrueReward:
    """The environment's own reward as a model, of which the weights are numbers."""

    env: str

    def init(self, *args, **kwargs):
        raise NotImplementedError

    def apply(self, weights, observation, action):
        if self.env == "cartpole":
            return weights["alive"]
        if self.env == "probe":
            return jnp.where(action == (observation[0] > 0), 1.0, -1.0)
        now = weights["target"] + 10 * observation[0]
        heat = jnp.where(action == 1, weights["heating"], 0.0)
        after = now + heat - 0.02 * (now - 50.0)
        return (jnp.abs(after - weights["target"]) <= 2.0).astype(jnp.float32)


ROOM = {"target": jnp.float32(70.0), "heating": jnp.float32(1.0)}
CASES = {
    "thermostat": (Thermostat(), ThermostatParams(max_steps=30), ROOM),
    "cartpole": (
        CartPole(),
        CartPoleParams(max_steps=30),
        {"alive": jnp.float32(1.0)},
    ),
    "probe": (probes.RewardFromBoth(), None, {}),
}


def pair(name):
    env, params, weights = CASES[name]
    learned = LearnedReward(env, TrueReward(name))
    return env, params, learned, LearnedRewardParams(params, weights)


def rolled_out(env, params, num_steps=80):
    def act(observation, key):
        return jax.random.bernoulli(key, 0.5, (8,)).astype(jnp.int32), None

    @jax.jit
    def run(key):
        start_key, key = jax.random.split(key)
        envs = VectorEnv(env).reset(start_key, params, 8)
        return unroll(key, env, params, envs, act, num_steps)

    return run(jax.random.key(3))


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("name", sorted(CASES))
def test_the_true_reward_as_a_model_gives_the_environment_bit_for_bit(name):
    env, params, learned, learned_params = pair(name)
    envs, steps, metrics = rolled_out(env, params)
    ours, our_steps, our_metrics = rolled_out(learned, learned_params)
    assert steps.reward.std() > 0 or name == "cartpole"
    chex.assert_trees_all_equal(steps, our_steps)
    chex.assert_trees_all_equal(metrics, our_metrics)
    chex.assert_trees_all_equal(envs.state, ours.state.state)


@pytest.mark.slow
def test_the_reward_is_that_of_what_the_policy_saw():
    env, params, learned, learned_params = pair("thermostat")
    network = make_reward_network(env, params, hidden=(8,))
    learned = dataclasses.replace(learned, model=network)
    weights = network.init(jax.random.key(0), jnp.zeros(1), jnp.int32(0))
    _, steps, _ = rolled_out(learned, learned_params.replace(reward=weights))
    wanted = network.apply(weights, steps.observation, steps.action)
    np.testing.assert_allclose(steps.reward, wanted, rtol=1e-5, atol=1e-6)
    _, same, _ = rolled_out(env, params)
    chex.assert_trees_all_equal(steps._replace(reward=same.reward), same)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_it_keeps_the_contract(name, key):
    env, params, _, _ = pair(name)
    network = make_reward_network(env, params, hidden=(4,))
    observation = env.reset(jax.random.key(1), params)[1]
    weights = network.init(jax.random.key(2), observation, jnp.int32(0))
    learned = LearnedReward(env, network)
    rljax.check_environment(
        learned, LearnedRewardParams(params, weights), key, num_steps=40
    )


def test_it_has_the_optional_methods_that_the_environment_has():
    hooks = [
        ("reset_from_noise", "reset"),
        ("step_from_noise", "step"),
        ("log_prob_reset", "reset"),
        ("log_prob_step", "step"),
    ]

    @dataclasses.dataclass(frozen=True)
    class Warmer(Thermostat):
        def step(self, key, state, action, params):
            return Thermostat.step(self, key, state, 1, params)

    for env in (Thermostat(), CartPole(), probes.RewardFromBoth(), Warmer()):
        learned = LearnedReward(env, TrueReward("cartpole"))
        for name, method in hooks:
            has = find_hook(learned, name, method) is not None
            assert has == (find_hook(env, name, method) is not None), (env, name)
        assert bool(find_owner(learned, "draw")) == hasattr(env, "draw")


def test_probabilities_and_pictures_are_those_of_the_environment():
    env, params, learned, learned_params = pair("thermostat")
    state, _ = env.reset(jax.random.key(0), params)
    after, _ = env.step(jax.random.key(1), state, jnp.int32(1), params)
    ours, _ = learned.reset(jax.random.key(0), learned_params)
    our_after, _ = learned.step(jax.random.key(1), ours, jnp.int32(1), learned_params)
    assert learned.log_prob_reset(ours, learned_params) == env.log_prob_reset(
        state, params
    )
    assert learned.log_prob_step(ours, 1, our_after, learned_params) == 0.0
    assert learned.log_prob_step(ours, 0, our_after, learned_params) == -jnp.inf
    assert learned.draw(our_after, 1, learned_params) == env.draw(after, 1, params)


def test_parameters_are_checked_by_the_environment():
    _, params, learned, learned_params = pair("thermostat")
    learned.check_params(learned_params)
    wrong = learned_params.replace(env=params.replace(tau=-1.0))
    with pytest.raises(ValueError, match="tau must lie in"):
        learned.check_params(wrong)
    _, _, probe, probe_params = pair("probe")
    probe.check_params(probe_params)


@pytest.mark.slow
def test_each_environment_may_have_parameters_of_its_own():
    env, params, learned, _ = pair("thermostat")
    rooms = ParamsPerEnv(stack(params, heating=[1.0, 3.0]))
    ours = with_reward(rooms, ROOM)
    assert ours.params.reward["target"].shape == (2,)
    weights = {"target": jnp.full(2, 70.0), "heating": jnp.float32([1.0, 3.0])}
    ours = ParamsPerEnv(ours.params.replace(reward=weights))
    _, steps, _ = rolled_out(env, rooms)
    _, our_steps, _ = rolled_out(learned, ours)
    chex.assert_trees_all_equal(steps, our_steps)
    assert with_reward(params, ROOM) == LearnedRewardParams(params, ROOM)


@pytest.mark.slow
def test_ppo_evaluation_and_simulation_are_those_of_the_environment():
    env, params, learned, learned_params = pair("thermostat")
    network = ActorCritic(num_actions=2, hidden=(8,))
    config = ppo.PPOConfig(num_envs=4, num_steps=16, num_epochs=2, num_minibatches=2)

    def trained(env, params):
        algorithm = ppo.ppo(env, network, config)
        init = jax.jit(algorithm.init)
        state = init(jax.random.key(0), ppo.PPOHyperparams(), params)
        return train(algorithm, state, params, 2)

    a, b = trained(env, params), trained(learned, learned_params)
    chex.assert_trees_all_close(a.params, b.params, rtol=1e-4, atol=1e-5)
    for play in (evaluate, record):
        runs = [
            functools.partial(
                play, env=e, params=p, act=bang_bang, num_episodes=5, max_steps=30
            )
            for e, p in ((env, params), (learned, learned_params))
        ]
        one, other = (jax.jit(run)(jax.random.key(1)) for run in runs)
        if play is record:
            other = other._replace(state=other.state.state)
        chex.assert_trees_all_equal(one, other)

    def act(policy, observation, uniform):
        return (uniform < 0.5).astype(jnp.int32)

    totals = [
        simulate(jax.random.key(2), *case, act, num_envs=4, num_steps=70)
        for case in ((env, params), (learned, learned_params))
    ]
    chex.assert_trees_all_equal(*totals)


def test_a_reward_is_a_scalar():
    _, _, learned, learned_params = pair("thermostat")
    wrong = {"target": jnp.full(1, 70.0), "heating": jnp.float32(1.0)}
    state, _ = learned.reset(jax.random.key(0), learned_params)
    with pytest.raises(ValueError, match=r"must be a scalar, got shape \(1,\)"):
        learned.step(
            jax.random.key(1), state, jnp.int32(0), learned_params.replace(reward=wrong)
        )
