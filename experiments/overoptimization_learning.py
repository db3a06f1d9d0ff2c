"""The parts of the study of over-optimization that learn, each with its own folder."""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tiny_prose
from overoptimization_settings import BATCH_SIZE, GROUP_SIZE, Experiment
from overoptimization_world import Proxy, World

from rljax.base import Algorithm, Params
from rljax.rlhf import (
    RewardConfig,
    RewardHyperparams,
    RewardModel,
    RewardTask,
    SFTConfig,
    SFTHyperparams,
    SFTTask,
    Transformer,
    fine_tuning,
    policy,
    reward_training,
)
from rljax.rlhf.data.rows import Rankings
from rljax.rlhf.policy.rewards import model_reward
from rljax.training.loggers import LogEntry, Row, log_line
from rljax.training.loop import train
from rljax.training.run_folder import RunFolder, stopped
from rljax.training.run_logger import RunLogger
from rljax.training.sharded import fetched, mesh_for, place, sharded


def make_world(experiment: Experiment) -> World:
    """Returns the language, with a policy and a judge that were pretrained on it."""
    corpus = tiny_prose.read_corpus(
        experiment.data,
        vocab_size=experiment.vocab_size,
        num_held_out=experiment.num_prompts,
    )
    module = Transformer(tiny_prose.shape(len(corpus.words), experiment.width, 2))
    params = [
        pretrain(experiment, module, corpus, f"language_model_{i}", i) for i in range(2)
    ]
    return World(corpus, module, *params)


def pretrain(
    experiment: Experiment,
    module: Transformer,
    corpus: tiny_prose.Corpus,
    name: str,
    index: int,
) -> Params:
    """Returns the parameters of a language model of the corpus."""
    start_key, key = keys(experiment, f"language model {index}", 2)
    ids = jnp.zeros((1, 1), jnp.int32)
    task = SFTTask(corpus.rows, module.init(start_key, ids, method="logits")["params"])
    num_updates = experiment.pretraining_updates
    hyperparams = SFTHyperparams(
        learning_rate=4e-3, warmup_updates=num_updates // 20, decay_updates=num_updates
    )
    algorithm = fine_tuning(module, SFTConfig(batch_size=BATCH_SIZE))
    params, _ = learn(
        experiment, name, algorithm, (key, hyperparams, task), num_updates, BATCH_SIZE
    )
    return params


def train_proxy(
    experiment: Experiment, world: World, name: str, rows: Rankings
) -> Proxy:
    """Returns the reward of a model that has learned from preferences.

    It begins with the policy's trunk, as usual, and with a head at random.
    """
    module = RewardModel(world.module.config)
    start_key, key = keys(experiment, name, 2)
    ids, lengths = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    variables = module.init(start_key, ids, lengths)
    params = {**variables["params"], "trunk": world.reference}
    num_updates = experiment.num_epochs * (len(rows.lengths) // BATCH_SIZE)
    hyperparams = RewardHyperparams(
        learning_rate=experiment.reward_learning_rate, decay_updates=num_updates
    )
    algorithm = reward_training(module, RewardConfig(batch_size=BATCH_SIZE))
    start = key, hyperparams, RewardTask(rows, params)
    learned, _ = learn(experiment, name, algorithm, start, num_updates, BATCH_SIZE)
    return Proxy(model_reward(module), {**variables, "params": learned})


def optimize(
    experiment: Experiment,
    world: World,
    proxy: Proxy,
    name: str,
    measure: Callable[[Params, int], dict[str, Any]],
) -> list[Row]:
    """Optimizes a policy for a proxy; returns what was measured, from update 0 on.

    Args:
        experiment: sizes and numbers.
        world: of the policy.
        proxy: the reward.
        name: of the folder.
        measure: `(params, updates) -> numbers` of a policy.
    """
    method = policy.PolicyMethod(
        kl="reward" if experiment.beta else "none", baseline="leave_one_out"
    )
    config = policy.PolicyConfig(
        method=method,
        num_prompts=experiment.num_samples // GROUP_SIZE,
        group_size=GROUP_SIZE,
        max_new_tokens=tiny_prose.COMPLETION_LENGTH,
        stop_ids=(tiny_prose.END,),
    )
    hyperparams = policy.PolicyHyperparams(
        learning_rate=experiment.learning_rate, beta=experiment.beta
    )
    prompts = jnp.asarray(world.corpus.prompts)
    task = policy.PolicyTask(
        prompts=prompts,
        prompt_lengths=jnp.full(len(prompts), prompts.shape[1], jnp.int32),
        params=world.reference,
        reward=proxy.params,
    )
    algorithm = policy.policy_optimization(world.module, config, proxy.reward).algorithm
    (key,) = keys(experiment, name, 1)
    _, rows = learn(
        experiment,
        name,
        algorithm,
        (key, hyperparams, task),
        experiment.num_updates,
        config.num_samples,
        log_every=max(1, experiment.num_updates // experiment.num_evaluations),
        measure=measure,
    )
    first = {"step": 0, **measure(world.reference, 0)}
    return [first, *({key: row[key] for key in first} for row in rows)]


def learn(
    experiment: Experiment,
    name: str,
    algorithm: Algorithm[Any],
    start: tuple[jax.Array, Any, Any],
    num_updates: int,
    batch_size: int,
    *,
    log_every: int | None = None,
    measure: Callable[[Params, int], dict[str, Any]] | None = None,
) -> tuple[Params, list[Row]]:
    """Trains, or goes on, in a folder of the study; returns parameters and the rows.

    Args:
        experiment: settings, and where the study is kept.
        name: of the folder.
        algorithm: the learner.
        start: the key, the hyperparameters and the task of its `init`.
        num_updates: in all.
        batch_size: rows or completions of an update.
        log_every: updates between two rows; by default a tenth of them.
        measure: `(params, updates) -> numbers` on the host, for each row.
    """
    mesh = mesh_for(batch_size)
    algorithm = sharded(algorithm, mesh)
    out = experiment.run.out
    options = dataclasses.replace(experiment.run, out=out / name if out else None)
    with RunFolder(f"overoptimization {name}", experiment, options) as folder:
        log_line(f"{name}: {'done before' if folder.result else 'at work'}")
        run = RunLogger(
            folder,
            num_updates=num_updates,
            steps_per_update=batch_size,
            headline="gold" if measure else "loss",
            unit="rows",
        )

        def on_log(state: Any, entry: LogEntry) -> bool:
            params = fetched(state.params, mesh)
            found = measure(params, entry.step) if measure else {}
            evaluation = {key: np.asarray(value) for key, value in found.items()}
            return run.on_log(state, entry._replace(evaluation=evaluation))

        key, hyperparams, task = start
        task = place(task, mesh)
        state = run.start(algorithm.init, key, hyperparams, task)
        if run.updates_left:
            state = train(
                algorithm,
                state,
                task,
                run.updates_left,
                log_every=log_every or max(1, num_updates // 10),
                on_log=on_log,
            )
            run.check_finished()
        if folder.result is None:
            run.finish({})
            # One that came while measuring stops the study between two parts.
            if signal_name := folder.should_stop():
                raise stopped(signal_name, f"the end of {name}", folder.path)
        return fetched(state.params, mesh), run.rows


def keys(experiment: Experiment, purpose: str, count: int) -> list[jax.Array]:
    """Returns different keys for each purpose."""
    number = zlib.crc32(purpose.encode())
    key = jax.random.fold_in(jax.random.key(experiment.seed), number)
    return list(jax.random.split(key, count))
