"""What the command `rljax reward` does: read, train, save, judge."""

import dataclasses
import itertools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.commands.reward import Reward
from rljax.commands.template import read_template
from rljax.commands.training import choose_trainable, date_of_run
from rljax.numerics.processes import agree, is_main
from rljax.report.reward_page import save_reward_page
from rljax.rlhf.data.datasets import Preference, read_preferences
from rljax.rlhf.data.encoding import encoding_config
from rljax.rlhf.data.forms import Columns
from rljax.rlhf.data.rows import Rankings
from rljax.rlhf.data.tokenizer import copy_tokenizer, load_tokenizer
from rljax.rlhf.data.training_sets import TrainingSet, tokenize_rankings
from rljax.rlhf.evaluation import (
    Comparisons,
    Evaluation,
    choose_length_rule,
    evaluate_scores,
)
from rljax.rlhf.pretrained import load_for_training, save_reward_model
from rljax.rlhf.scoring.scorer import Scorer
from rljax.rlhf.training import (
    RewardConfig,
    RewardHyperparams,
    RewardTask,
    fixed_only,
    reward_training,
    score_rows,
    trained_params,
    usual_lengths,
)
from rljax.training.files import RunError
from rljax.training.loggers import LogEntry, log_line
from rljax.training.loop import memory_needed, train
from rljax.training.run_folder import RunFolder
from rljax.training.run_logger import RunLogger
from rljax.training.sharded import fetched, mesh_for, place, sharded


def train_and_judge(command: Reward, folder: RunFolder) -> dict[str, Any]:
    """Trains, or goes on; saves the model; returns the figures of how good it is."""
    out, seed = folder.options.out, command.seed
    assert out is not None  # checked by the command
    module, params, has_head = load_for_training(command.model)
    tokenizer = load_tokenizer(command.model)
    if module.pad_id is None:
        module = module.clone(pad_id=tokenizer.pad_id)
    how: dict[str, Any] = {
        "max_length": command.max_length or min(module.config.max_length, 1024),
        "template": read_template(command.template),
        "date": date_of_run(command.date, out),
        "truncate": command.truncate,
    }
    encoding = encoding_config(tokenizer, pad_id=module.pad_id, **how)
    learned_from, judged_by = _preferences(command)

    def tokenized(preferences: Sequence[Preference]) -> TrainingSet[Rankings]:
        size = module.config.vocab_size
        return tokenize_rankings(tokenizer, encoding, preferences, vocab_size=size)

    data, judged = tokenized(learned_from), tokenized(judged_by)
    log_line(f"to learn from: {data.counts.describe()}")
    log_line(f"to judge by: {judged.counts.describe()}")
    dtype = jnp.bfloat16 if command.bfloat16 else jnp.float32
    shape = dataclasses.replace(module.config, dtype=dtype, remat=command.remat)
    learner = module.clone(config=shape)
    config = RewardConfig(
        batch_size=command.batch_size,
        num_microbatches=command.num_microbatches,
        lengths=usual_lengths(data.rows.ids.shape[-1]),
        trainable=choose_trainable(
            command.train, command.last_layers, command.lora_rank
        ),
        new_head=not has_head,
    )
    mesh = mesh_for(config.microbatch_size, model=command.fsdp)
    algorithm = sharded(reward_training(learner, config), mesh)
    num_updates = max(1, int(command.epochs * data.counts.kept / command.batch_size))
    run = RunLogger(
        folder,
        num_updates=num_updates,
        steps_per_update=command.batch_size,
        headline="pair_accuracy",
        unit="train_pairs",
    )
    hyperparams = _hyperparams(command, module.config.hidden_size, num_updates)
    task = place(RewardTask(data.rows, params), mesh)
    state = run.start(algorithm.init, jax.random.key(seed), hyperparams, task)
    task = fixed_only(module, config.trainable, task)
    if run.updates_left:
        log_line(memory_needed(algorithm, state, task).describe())
    every = max(1, num_updates // 50)

    def on_log(state: Any, entry: LogEntry) -> bool:
        if entry.step % (10 * every) == 0 or entry.step == num_updates:
            scores = score_rows(learner, config, state, task, judged.rows)
            right = np.where(
                scores[:, 0] == scores[:, 1], 0.5, scores[:, 0] > scores[:, 1]
            )
            entry = entry._replace(evaluation={"pair_accuracy": right.mean()})
        return run.on_log(state, entry)

    state = train(
        algorithm, state, task, run.updates_left, log_every=every, on_log=on_log
    )
    run.check_finished()
    model = out / "model"
    made = fetched(trained_params(module, config.trainable, state, task), mesh)
    scale = {"mean": jnp.float32(0.0), "std": jnp.float32(1.0)}
    if is_main():
        save_reward_model(model, module, {"params": made, "scale": scale})
        copy_tokenizer(command.model, model, template=how["template"])
    agree(None)  # the others wait for it
    # Judged as others will use it: from its folder, and from text.
    kept = [judged_by[i] for i in judged.kept]
    evaluation = _evaluate(Scorer.load(model, **how), kept, data.rows)
    if is_main():
        save_reward_page(
            out / "evaluation.html",
            evaluation,
            title=f"Reward model of {command.model.name}",
            command=shlex.join(["rljax", *sys.argv[1:]]),
            versions=folder.manifest["versions"],
        )
    figures = {"model": str(model), "pairs_learned_from": data.counts.kept}
    return run.finish(figures | evaluation.row())


def _preferences(command: Reward) -> tuple[list[Preference], list[Preference]]:
    """Returns those to learn from, and those to judge by."""
    columns = Columns(
        prompt=command.prompt_column,
        chosen=command.chosen_column,
        rejected=command.rejected_column,
    )

    def read(path: Path) -> list[Preference]:
        records = read_preferences(path, columns=columns, skip_bad=command.skip_bad)
        found = list(records)
        if records.num_bad:
            log_line(
                f"warning: {records.num_bad:,} rows passed over, first {records.first_bad}"
            )
        if len(found) < 2:
            raise RunError(
                f"{path} must hold at least two preferences, got {len(found)}."
            )
        return found

    learned_from = read(command.data)
    if command.eval is not None:
        return learned_from, read(command.eval)
    order = np.random.default_rng(command.seed).permutation(len(learned_from))
    held_out = order[: max(1, min(len(order) // 10, 1000))].tolist()
    rest = np.sort(order[len(held_out) :]).tolist()
    return [learned_from[i] for i in rest], [learned_from[i] for i in held_out]


def _evaluate(
    scorer: Scorer, preferences: Sequence[Preference], learned_from: Rankings
) -> Evaluation:
    """Returns the figures of a model on preferences, each two of a ranking a pair.

    The pairs of a ranking are not independent: with many of them the intervals are too
    narrow.
    """
    both = np.asarray(learned_from.lengths[:, :2])
    rule = choose_length_rule(Comparisons.of(np.zeros(both.shape), lengths=both))
    detail = scorer.detail([one for each in preferences for one in each.examples])
    pairs, probs, start = [], [], 0
    for each in preferences:
        size = len(each.examples)
        for i, j in itertools.combinations(range(size), 2):
            pairs.append((start + i, start + j))
            probs.append(each.prob if size == 2 else 1.0)
        start += size
    rows = np.array(pairs)
    return evaluate_scores(
        Comparisons.of(
            detail.scores[rows], probs=probs, lengths=detail.num_tokens[rows]
        ),
        length_rule=rule,
    )


def _hyperparams(command: Reward, width: int, num_updates: int) -> RewardHyperparams:
    """Returns the numbers of a run of so many updates, for a model of a width.

    Yang et al. (2022), https://arxiv.org/abs/2203.03466: Adam's best step size falls
    as 1 / width. Low-rank terms bear more, a head much more.
    """
    more = {"all": 1.0, "last": 1.0, "lora": 5.0, "head": 20.0}[command.train]
    rate = command.learning_rate
    return RewardHyperparams(
        learning_rate=min(0.05 * more / width, 3e-3 * more) if rate is None else rate,
        warmup_updates=num_updates // 10,
        decay_updates=max(num_updates, 1),
        label_smoothing=command.label_smoothing,
        centring=command.centring,
    )
