"""Programs of control: learners, their evaluations, sweeps, the chapter's equations."""

import functools

import cartpole_ppo
import cartpole_preferences
import enumerated
import jax
import jax.numpy as jnp
import preferences_report
import robustness_cartpole
import search_cartpole
import sweep_preferences
import sweep_thermostat
import thermostat_ppo
import thermostat_preferences
import thermostat_report
from accelerator_devices import accelerators, mesh_of_two
from accelerator_parts import KEY, KEYS, SEEDS, Program, ints, shape, step_of, sweep_of

import rljax
from rljax.algorithms import ppo
from rljax.envs import thermostat
from rljax.rlhf import (
    policy,
)
from rljax.rlhf.policy.bandit import BanditParams, Completion
from rljax.rlhf.segments import learning, preference_learning
from rljax.rollouts import record, simulation
from rljax.rollouts.objectives import objective
from rljax.rollouts.rollout import greedy_and_sampled
from rljax.sweeps import grid
from rljax.sweeps.problem import make_problem
from rljax.training.populations import (
    evaluate_each,
    map_over_devices,
    population,
    replicate,
    stack,
)
from rljax.training.sharded import sharded


def ppo_population(script, task, program=step_of):
    """A member on each of two devices."""
    experiment, mesh = script.Experiment(), mesh_of_two(population=SEEDS)
    agent = ppo.ppo(script.ENV, script.NETWORK, experiment.config)
    agents = population(sharded(agent, mesh), devices=mesh)
    return program(agents, replicate(experiment.hyperparams, SEEDS), task, KEYS)


def evaluation(script, act, program):
    """On CartPole, of the states that another program takes, a member on each device."""

    def one(state, key):
        return greedy_and_sampled(
            key, script.ENV, script.TASK, functools.partial(act, state),
            num_episodes=128, max_steps=script.TASK.max_steps,
        )  # fmt: skip

    evaluate = evaluate_each(one, mesh_of_two(population=SEEDS))
    return Program(evaluate, (program.args[0], KEY))


def ppo_evaluation():
    act = functools.partial(ppo.act, cartpole_ppo.NETWORK)
    return evaluation(
        cartpole_ppo, act, ppo_population(cartpole_ppo, cartpole_ppo.TASK)
    )


def preference_evaluation():
    script = cartpole_preferences
    act = functools.partial(learning.act, script.NETWORKS)
    return evaluation(script, act, preference_round(script, script.TASK))


def thermostat_examination():
    """What `thermostat_report.compare` does with a policy, and what is logged of it."""
    script, task = thermostat_ppo, rljax.ThermostatParams()

    def examine(params, key):
        act = functools.partial(thermostat_report.act, script.NETWORK, params)
        seen = record(
            key, script.ENV, task, act, num_episodes=64, max_steps=task.max_steps
        )
        return seen, thermostat_report.on_probability(script.NETWORK, params)

    _, (states, _) = ppo_population(script, task)
    return Program(jax.vmap(examine), (states.params, KEYS))


def preference_round(script, task):
    experiment, mesh = script.Experiment(), mesh_of_two(population=SEEDS)
    learner = preference_learning(script.ENV, script.NETWORKS, experiment.config)
    learners = population(sharded(learner, mesh), devices=mesh)
    return step_of(learners, replicate(experiment.hyperparams, SEEDS), task, KEYS)


def preference_test():
    script, task = thermostat_preferences, thermostat_preferences.ROOMS["default"]
    _, (states, _) = preference_round(script, task)
    test = preferences_report.make_test(script.NETWORKS, task, 512)
    mesh = mesh_of_two(population=SEEDS)
    return Program(map_over_devices(test, (0, None), mesh), (states, KEY))


def searched(*, updates):
    problem = search_cartpole.Experiment().problem()
    points = grid(learning_rate=[1e-4, 1e-3], gamma=[0.9, 0.99])
    return sweep_of(problem, points, updates=updates)


def rooms_swept(*, updates):
    script, experiment = sweep_thermostat, sweep_thermostat.Experiment()
    problem = make_problem(
        ppo, script.ENV, script.NETWORK, script.TASK,
        total_steps=experiment.total_steps, config=experiment.config,
    )  # fmt: skip
    return sweep_of(problem, grid(heating=[1.0, 3.0], gamma=[0.9]), updates=updates)


def comparisons_swept(*, updates):
    script, experiment = sweep_preferences, sweep_preferences.Experiment()
    problem = make_problem(
        learning, script.ENV, script.NETWORKS, script.ROOMS["hard"],
        total_steps=experiment.total_steps, config=experiment.config,
    )  # fmt: skip
    return sweep_of(problem, grid(num_comparisons=[5, 800]), updates=updates)


def plants():
    script = robustness_cartpole
    learner = ppo.ppo(script.ENV, script.NETWORK, script.Experiment().config)
    state = jax.eval_shape(learner.init, KEY, ppo.PPOHyperparams(), script.TASK)
    tried = stack(script.TASK, length=[0.1, 1.0], masspole=[0.1, 1.0])
    return Program(script.on_plants(script.Experiment()), (state, tried, KEY))


def thermostat_objective():
    estimate = functools.partial(
        objective, env=rljax.Thermostat(), params=rljax.ThermostatParams(),
        act=thermostat.bang_bang, gamma=0.99, num_episodes=4096, max_steps=917,
        continuing=True,
    )  # fmt: skip
    return Program(estimate, (KEY,))


def bandit():
    env = policy.PromptBandit(
        enumerated.table_reward, enumerated.VOCABULARY, enumerated.LENGTH
    )
    task = BanditParams(ints(1, 1), ints(1), shape(625))

    def one(key, task):
        reset_key, step_key = jax.random.split(key)
        prompt, _ = env.reset(reset_key, task)
        action = Completion(jnp.zeros(enumerated.LENGTH, jnp.int32), jnp.int32(4))
        return env.step(step_key, prompt, action, task)[1].reward

    return Program(jax.vmap(one, in_axes=(0, None)), (KEYS, task))


def simulated():
    def act(policy, observation, uniform):
        del policy, observation
        return (uniform < 0.5).astype(jnp.int32)

    program = simulation.compile_simulation(
        rljax.CartPole(), act, 1024, 200, accelerators()
    )
    return Program(program, (KEY, rljax.CartPoleParams(), None))
