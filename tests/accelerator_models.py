"""Programs of language models and reward models: scores, completions, learners."""

import dataclasses
import functools

import beta_frontier
import enumerable_world
import enumerated
import instructgpt_settings
import jax
import numpy as np
import overoptimization_settings
import overoptimization_world
import pretrain_tiny
import recipes_sizes
import recipes_words
import rlhf_tiny
import score_completions
import tiny_prose
import word_problems
from accelerator_parts import KEY, KEYS, Program, ints, shape, step_of

from rljax.rlhf import (
    LastLayers,
    RewardConfig,
    RewardHyperparams,
    RewardModel,
    RewardTask,
    SFTConfig,
    SFTHyperparams,
    SFTTask,
    Transformer,
    Truncation,
    fine_tuning,
    policy,
    reward_training,
)
from rljax.rlhf.data.rows import Completions, Rankings
from rljax.rlhf.direct import reference
from rljax.rlhf.frozen import Head, JudgedTexts, features, heads, with_heads
from rljax.rlhf.generation import decoding
from rljax.rlhf.models.transformer import take_apart
from rljax.rlhf.policy import held_out, rewards
from rljax.rlhf.recipes import Mixture, reward_by_kind
from rljax.rlhf.scoring.ensembles import scores_and_members
from rljax.rlhf.training.score_rows import _program as score_rows_program

TINY = Transformer(pretrain_tiny.SHAPE)  # of two blocks
PROSE = Transformer(tiny_prose.shape(1024, 64, 2))


@functools.cache
def params_of(module):
    """The parameters of a language model."""
    init = functools.partial(module.init, method="logits")
    return jax.eval_shape(init, KEY, ints(1, 1))["params"]


@functools.cache
def reward_variables(module):
    return jax.eval_shape(module.init, KEY, ints(1, 1), ints(1))


def completions(width, count=256):
    return Completions(ints(count, width), ints(count), ints(count))


def pairs(width, count=256):
    both = ints(count, 2)
    numbers = shape(count), shape(count)
    return Rankings(ints(count, 2, width), both, *numbers, both, shape(count, 2))


def sft(module, config, width):
    task = SFTTask(completions(width), params_of(module))
    return step_of(fine_tuning(module, config), SFTHyperparams(), task)


def pretraining():
    lengths = word_problems.LENGTH, pretrain_tiny.PASSAGE
    config = SFTConfig(batch_size=64, num_microbatches=4, lengths=lengths)
    return sft(TINY, config, pretrain_tiny.PASSAGE)


def training_of(training, make, task_of, module, rows):
    """A recipe's training, with its own sizes and numbers."""
    algorithm = make(module, training.config)
    return step_of(algorithm, training.hyperparams, task_of(rows, params_of(module)))


def preference_reward(module, config, width):
    task = RewardTask(pairs(width), reward_variables(module)["params"])
    return step_of(reward_training(module, config), RewardHyperparams(), task)


def optimization(module, config, hyperparams, reward, reads, width=9):
    """One update of a policy, with a reward of tokens."""
    algorithm = policy.policy_optimization(module, config, reward).algorithm
    task = policy.PolicyTask(ints(64, width), ints(64), params_of(module), reads)
    return step_of(algorithm, hyperparams, task)


def targets():
    return rewards.Targets(ints(64, word_problems.ANSWER_LENGTH), ints(64))


def rlhf_tiny_update(name):
    method, hyperparams = rlhf_tiny.RECIPES[name]()
    config = policy.PolicyConfig(
        method=method, num_prompts=32, group_size=8, num_minibatches=4,
        max_new_tokens=word_problems.ANSWER_LENGTH, stop_ids=(word_problems.END,),
    )  # fmt: skip
    return optimization(TINY, config, hyperparams, rewards.equals_target, targets())


def answers():
    arrays = ints(64, word_problems.PROMPT_LENGTH), ints(64)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 64))
    args = TINY, params_of(TINY), *arrays, keys, True
    return Program(word_problems._complete, args)


def mixed_update():
    training = recipes_sizes.rl(policy.grpo(), 60, "mixed")
    reward = reward_by_kind(rewards.equals_target, recipes_words.ends_line)
    reads = Mixture((targets(), shape()), ints(64))
    return optimization(TINY, training.config, training.hyperparams, reward, reads)


def held_out_samples(module):
    program = held_out._program(module, word_problems.ANSWER_LENGTH, (0,))
    arrays = ints(64, 9), ints(64), ints(64)
    return Program(program, (params_of(module),) * 2 + arrays + (KEY, shape()))


def reference_log_probs():
    args = params_of(TINY), ints(32, 18), ints(32), ints(32)
    return Program(reference._program(TINY), args)


def enumerable():
    world = enumerated.World(params_of(enumerated.MODULE), shape(625))
    experiment = enumerable_world.Experiment()
    config = enumerated.make_config("ppo", experiment.num_samples)
    return enumerated.make_problem(world, config, experiment.hyperparams, 400)


def one_run(problem, *, updates=True):
    """What a sweep's population is of: an update, if wanted, and an evaluation."""
    algorithm = problem.algorithm(problem.network, problem.config)
    step, (state, task) = step_of(algorithm, problem.hyperparams, problem.task)

    def both(state, task, key):
        found = problem.evaluate(problem.network, state, task, key)
        return found, step(state, task) if updates else None

    return Program(both, (state, task, KEY))


def prose_world():
    prompts = np.zeros((8, tiny_prose.PROMPT_LENGTH), np.int32)
    corpus = tiny_prose.Corpus([], completions(tiny_prose.LENGTH), prompts, prompts)
    params = params_of(PROSE)
    return overoptimization_world.World(corpus, PROSE, params, params)


def prose_proxy():
    module = RewardModel(PROSE.config)
    return overoptimization_world.Proxy(
        rewards.model_reward(module), reward_variables(module)
    )


def frontier():
    experiment = beta_frontier.Experiment()
    return beta_frontier.make_problem(experiment, prose_world(), prose_proxy())


def prose_update():
    experiment, proxy = overoptimization_settings.Experiment(), prose_proxy()
    config = policy.PolicyConfig(
        method=policy.PolicyMethod(kl="none", baseline="leave_one_out"),
        num_prompts=experiment.num_samples // overoptimization_settings.GROUP_SIZE,
        group_size=overoptimization_settings.GROUP_SIZE,
        max_new_tokens=tiny_prose.COMPLETION_LENGTH,
        stop_ids=(tiny_prose.END,),
    )
    numbers = policy.PolicyHyperparams(), *proxy, tiny_prose.PROMPT_LENGTH
    return optimization(PROSE, config, *numbers)


def prose_drawn():
    models, count = (params_of(PROSE),) * 3, overoptimization_settings.ROWS_AT_ONCE
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
    args = PROSE, models, ints(count, tiny_prose.PROMPT_LENGTH), keys
    return Program(overoptimization_world._draw, args)


def prose_scored():
    proxy, count = prose_proxy(), overoptimization_settings.ROWS_AT_ONCE
    samples = policy.Samples(
        ids=ints(count, tiny_prose.LENGTH), lengths=ints(count), starts=ints(count),
        prompt_index=ints(count), stopped=shape(count, dtype=bool),
        log_probs=shape(count, tiny_prose.COMPLETION_LENGTH),
    )  # fmt: skip
    return Program(overoptimization_world._score, (proxy.reward, proxy.params, samples))


def scored():
    module = RewardModel(score_completions.SMALL)
    variables = reward_variables(module)
    _, score = scores_and_members(module, variables)
    return Program(score, (variables, ints(16, 64), ints(16)))


def frozen_features():
    program = features._program(TINY.config, (1, 2), "last")
    return Program(program, (params_of(TINY), ints(16, 64), ints(16)))


def frozen_heads():
    count, width, layers = 64, 32, 2
    prepared = heads.PreparedFeatures(
        shape(layers, count, width), shape(layers, width), shape(layers, width, width),
        shape(layers, width),
    )  # fmt: skip
    blocks = ints(layers), shape(layers, 7), ints(layers, 7)
    labels = JudgedTexts(ints(100, 2), shape(100))
    args = prepared, labels, shape(3, 100), *blocks, shape(), ints()
    return Program(heads._fit_blocks, args)


LAST_BLOCK = RewardConfig(batch_size=32, trainable=LastLayers(1), new_head=False)


def blocks_scored():
    module = RewardModel(TINY.config)
    _, (state, task) = preference_reward(module, LAST_BLOCK, 64)
    program = score_rows_program(module, LAST_BLOCK.trainable)
    return Program(program, (state.params, task.params, ints(32, 64), ints(32)))


def instructgpt_sft(module, train):
    """With rows of one length, each of which would be another program."""
    training = instructgpt_settings.Experiment(train=train).sft_training(48)
    return sft(module, dataclasses.replace(training.config, lengths=()), 48)


def instructgpt_update(module, **flags):
    """With the reward that the experiment makes for what is trained."""
    experiment, question = instructgpt_settings.Experiment(**flags), (5, 6, 7)
    training = experiment.policy_training((0,), question)
    width, count = module.config.hidden_size, experiment.num_heads
    if experiment.train == "lora":
        last, numbers = module.config.num_layers - 1, shape(count)
        first = dataclasses.replace(module.config, num_layers=last)
        variables = jax.eval_shape(
            lambda params, head: with_heads(module, {"params": params}, head, last)[1],
            params_of(module),
            Head(shape(count, width), *[numbers] * 4),
        )
        ensemble = rewards.ensemble_reward(RewardModel(first), "lower", rows_at_once=32)
        reward = rewards.with_question(ensemble, question)
        reads = rewards.Ensemble(variables, numbers, shape())
    else:
        reward = rewards.trunk_reward(module)
        norm = params_of(module)["norm"]
        reads = rewards.TrunkHeads(norm, shape(count, width), shape(count), shape())
    return optimization(module, training.config, training.hyperparams, reward, reads)


def updates_with_host_rewards():
    """The two halves of an update, between which the host computes rewards."""
    method, hyperparams = policy.grpo()
    config = policy.PolicyConfig(
        method=method, num_prompts=4, group_size=4, max_new_tokens=8, stop_ids=(0,)
    )
    learner = policy.policy_optimization(TINY, config)
    task = policy.PolicyTask(ints(64, 9), ints(64), params_of(TINY))
    state = jax.eval_shape(learner.algorithm.init, KEY, hyperparams, task)

    def halves(state, task, rewards):
        state, samples = learner.sample(state, task)
        return learner.update(state, task, samples, rewards)

    return Program(halves, (state, task, shape(16)))


def generation():
    """`rljax generate`: what begins a batch of completions, and what goes on with it."""
    sampling = decoding.Sampling(truncation=Truncation(top_k=8, top_p=0.9))

    def complete(params, prompts, lengths, keys, until):
        begun = decoding.begin(TINY, params, prompts, lengths, keys, sampling, 16)
        apart = take_apart(params)
        found = decoding.go_on(TINY, params, apart, begun, sampling, until)
        return decoding.keep(found, until[None])

    arrays = ints(2, 9), ints(2), KEYS, ints()
    return Program(complete, (params_of(TINY), *arrays))
