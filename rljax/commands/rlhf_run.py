"""What the command `rljax rlhf` does: read, train, save, compare."""

import dataclasses
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rljax.base import Algorithm, Params
from rljax.commands.rlhf import Rlhf
from rljax.commands.rlhf_figures import Judged, figures_of, save_page
from rljax.commands.rlhf_prompts import Prompts, read_and_split
from rljax.commands.rlhf_reward import (
    Judge,
    Reader,
    closed_reward,
    closing_tokens,
    load_judge,
    num_read_otherwise,
)
from rljax.commands.template import read_template
from rljax.commands.training import date_of_run
from rljax.numerics.processes import is_main
from rljax.rlhf.data.encoding import encoding_config
from rljax.rlhf.data.tokenizer import check_tokenizer, copy_tokenizer, load_tokenizer
from rljax.rlhf.generation.stopping import read_stop_ids
from rljax.rlhf.models import Transformer
from rljax.rlhf.policy import (
    PolicyConfig,
    PolicyHyperparams,
    PolicyState,
    PolicyTask,
    policy_optimization,
    text_training,
)
from rljax.rlhf.policy.held_out import sample_held_out
from rljax.rlhf.policy.rewards.text_rewards import checked_scores
from rljax.rlhf.policy.sharded_learner import sharded_learner
from rljax.rlhf.policy.text_training import completion_texts
from rljax.rlhf.pretrained import load_language_model, save_language_model
from rljax.rlhf.pretrained.files import read_object
from rljax.rlhf.training import trained_params, usual_lengths
from rljax.training.files import FolderError, RunError, write_atomically
from rljax.training.loggers import LogEntry, log_line
from rljax.training.loop import memory_needed, train
from rljax.training.run_folder import RunFolder
from rljax.training.run_logger import RunLogger
from rljax.training.sharded import fetched, mesh_for, place

Closing = tuple[int, ...] | str
"""What `closing_tokens` returns."""


class Policy(NamedTuple):
    """The policy before training.

    Attributes:
        module: the model.
        params: its parameters.
        reader: how prompts become its tokens.
        stop_ids: tokens that end its completions.
    """

    module: Transformer
    params: Params
    reader: Reader
    stop_ids: tuple[int, ...]


def train_and_compare(command: Rlhf, folder: RunFolder) -> dict[str, Any]:
    """Trains, or goes on; saves the model; returns figures of before and after."""
    out = folder.options.out
    assert out is not None  # checked by the command
    date = date_of_run(command.date, out)
    policy = _load_policy(command, date)
    judge = load_judge(command.reward, command.label, date)
    learned_from, held_out = read_and_split(command, policy.reader, judge.reader)
    config, hyperparams = _method(command, policy, learned_from)
    train_key, test_key = jax.random.split(jax.random.key(command.seed))

    def compare(params: Params) -> Judged:
        return _judged(command, policy, judge, held_out, params, test_key)

    before = compare(policy.params)
    closing = _closing(command, policy, judge, learned_from, before)
    mesh = mesh_for(config.microbatch_size, model=command.fsdp)
    algorithm, take_updates = _learner(
        command, policy, judge, learned_from, config, closing, mesh
    )
    task = PolicyTask(
        jnp.asarray(learned_from.ids),
        jnp.asarray(learned_from.lengths),
        policy.params,
        judge.variables if isinstance(closing, tuple) else None,
    )
    task = place(task, mesh)
    run = RunLogger(
        folder,
        num_updates=command.updates,
        steps_per_update=config.num_samples,
        headline="reward",
        unit="completions",
    )
    state = run.start(algorithm.init, train_key, hyperparams, task)
    every = max(1, command.updates // 50)
    if run.updates_left and take_updates is None:
        log_line(memory_needed(algorithm, state, task).describe())

    def learned(state: PolicyState) -> Params:
        made = trained_params(policy.module, config.trainable, state, task)
        return fetched(made, mesh)

    def on_log(state: Any, entry: LogEntry) -> bool:
        if entry.step % (10 * every) == 0 or entry.step == command.updates:
            scores = compare(learned(state)).scores
            entry = entry._replace(evaluation={"held_out": scores.mean()})
        return run.on_log(state, entry)

    state = train(
        algorithm,
        state,
        task,
        run.updates_left,
        log_every=every,
        on_log=on_log,
        take_updates=take_updates,
    )
    run.check_finished()
    params = learned(state)
    if is_main():
        _save_model(command, policy, params, out / "model")
    after = compare(params)
    figures = figures_of(before, after) | {
        "model": str(out / "model"),
        "prompts": len(learned_from.pairs),
        **_reading(judge, closing, after),
    }
    tokenizer, judged = policy.reader.tokenizer, (before, after)
    if is_main():
        save_page(command, folder, run.rows, figures, judged, held_out, tokenizer)
    return run.finish(figures)


def _load_policy(command: Rlhf, date: datetime.date) -> Policy:
    try:
        module, variables = load_language_model(command.policy)
    except FolderError as error:
        raise RunError(
            f"--policy must be the folder of a causal language model: {error}"
        ) from error
    dtype = jnp.bfloat16 if command.bfloat16 else jnp.float32
    module = _with_config(module, dtype=dtype)
    tokenizer = load_tokenizer(command.policy)
    check_tokenizer(tokenizer, module.config.vocab_size, "policy")
    stop_ids = read_stop_ids(command.policy, tokenizer)
    if not stop_ids:
        raise RunError(
            f"a policy needs a token that ends a completion, got none from "
            f"{command.policy}. Write its eos_token_id into generation_config.json."
        )
    encoding = encoding_config(
        tokenizer,
        max_length=module.config.max_length,
        template=read_template(command.template),
        date=date,
    )
    reader = Reader(tokenizer, encoding, module.config.vocab_size)
    return Policy(module, variables["params"], reader, stop_ids)


def _method(
    command: Rlhf, policy: Policy, prompts: Prompts
) -> tuple[PolicyConfig, PolicyHyperparams]:
    """Returns sizes and numbers of the run.

    The step size is inversely proportional to the width, as in Yang et al. (2022),
    https://arxiv.org/abs/2203.03466; low-rank terms bear ten times as much: Schulman et al.
    (2025), https://thinkingmachines.ai/blog/lora.
    """
    config, hyperparams = command.method()
    longest = prompts.ids.shape[1] + command.max_new_tokens
    config = dataclasses.replace(
        config, stop_ids=policy.stop_ids, lengths=usual_lengths(longest)
    )
    rate = command.learning_rate
    if rate is None:
        more = 10.0 if command.train == "lora" else 1.0
        rate = more * min(0.01 / policy.module.config.hidden_size, 3e-4)
    return config, hyperparams.replace(
        learning_rate=rate,
        critic_learning_rate=rate,
        warmup_updates=command.updates // 10,
        decay_updates=command.updates,
    )


def _closing(
    command: Rlhf, policy: Policy, judge: Judge, prompts: Prompts, before: Judged
) -> Closing:
    """Returns the tokens that close what the reward model reads; or why it reads texts."""
    closing: Closing = "as was asked for"
    if not command.score_texts:
        closing = closing_tokens(
            policy.reader,
            judge,
            policy.stop_ids,
            prompts.pairs[:8],
            prompts.ids.shape[1] + command.max_new_tokens,
        )
    if isinstance(closing, tuple):
        count = num_read_otherwise(judge, closing, before.samples, before.scores)
        if count:
            total = len(before.scores)
            closing = f"of {total:,} completions {count:,} have other tokens as text"
    if isinstance(closing, str):
        log_line(f"the reward model reads texts, on the host: {closing}")
    else:
        log_line("the reward model reads the policy's tokens, in the compiled update")
    return closing


def _reading(judge: Judge, closing: Closing, after: Judged) -> dict[str, Any]:
    """Returns how the reward model read, and the share of texts that it reads otherwise."""
    if isinstance(closing, str):
        return {"reward_reads": "texts"}
    count, total = (
        num_read_otherwise(judge, closing, after.samples, after.scores),
        len(after.scores),
    )
    if count:
        log_line(
            f"warning: of {total:,} completions {count:,} have another score as text than "
            f"as the tokens that were rewarded. Train with --score-texts."
        )
    return {"reward_reads": "tokens", "read_otherwise": count / total}


def _learner(
    command: Rlhf,
    policy: Policy,
    judge: Judge,
    prompts: Prompts,
    config: PolicyConfig,
    closing: Closing,
    mesh: Mesh,
) -> tuple[Algorithm[PolicyState], Callable[..., Any] | None]:
    """Returns the algorithm, and what takes its updates where the host has a part."""
    module = _with_config(policy.module, remat=command.remat)
    if isinstance(closing, tuple):
        parts = config.num_minibatches * config.num_microbatches
        rows_at_once = config.num_samples // parts if parts > 1 else None
        reward = closed_reward(judge.module, closing, rows_at_once)
        learner = policy_optimization(module, config, reward)
        return sharded_learner(learner, mesh).algorithm, None
    pairs: list[Any] = prompts.pairs
    learner = sharded_learner(policy_optimization(module, config), mesh)
    tokenizer = policy.reader.tokenizer
    return text_training(
        learner, tokenizer, pairs, judge.of_texts, keep_in=command.run.out
    )


def _judged(
    command: Rlhf,
    policy: Policy,
    judge: Judge,
    prompts: Prompts,
    params: Params,
    key: jax.Array,
) -> Judged:
    """Returns completions of held-out prompts with what `rljax score` gives of them."""
    samples = sample_held_out(
        policy.module,
        params,
        policy.params,
        prompts.ids,
        prompts.lengths,
        key,
        max_new_tokens=command.max_new_tokens,
        stop_ids=policy.stop_ids,
        temperature=command.temperature,
        rows_at_once=command.num_prompts * command.group_size,
    )
    texts = completion_texts(policy.reader.tokenizer, samples, policy.stop_ids)
    pairs: list[Any] = prompts.pairs
    scores = checked_scores(judge.of_texts, pairs, texts, command.run.out)
    return Judged(samples, texts, scores)


def _with_config(module: Transformer, **changes: Any) -> Transformer:
    return module.clone(config=dataclasses.replace(module.config, **changes))


def _save_model(command: Rlhf, policy: Policy, params: Params, folder: Path) -> None:
    """Writes a folder that completes as the policy did, with what ended its completions."""
    save_language_model(folder, policy.module, {"params": params})
    copy_tokenizer(command.policy, folder, template=read_template(command.template))
    theirs = command.policy / "generation_config.json"
    generation = read_object(theirs) if theirs.exists() else {}
    generation |= {"eos_token_id": list(policy.stop_ids)}
    text = json.dumps(generation, indent=2) + "\n"
    write_atomically(folder / "generation_config.json", text)
