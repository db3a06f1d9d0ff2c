"""Training with rewards of texts: sample, decode and score on the host, then update.

    task = text_task(tokenizer, texts, params)
    learner = policy_optimization(module, config)
    on_text = text_training(learner, tokenizer, texts, reward, keep_in=folder)
    state = train(on_text.algorithm, state, task, 100, take_updates=on_text.take_updates)

Logs, checkpoints and resume are those of `train`: between two updates nothing is on the
host that would have to be saved.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Algorithm, Params
from rljax.numerics.compiler import compiler_options
from rljax.numerics.processes import gather, num_processes, to_host
from rljax.rlhf.data.encoding import (
    EncodingError,
    encode_prompts,
    encoding_config,
)
from rljax.rlhf.data.pairs import Messages, Pair
from rljax.rlhf.data.rows import left_padded
from rljax.rlhf.data.tokenizer import ChatTemplate, Tokenizer, check_tokenizer
from rljax.rlhf.policy.policy_optimization import Learner, PolicyState, PolicyTask
from rljax.rlhf.policy.rewards.text_rewards import TextReward, checked_scores
from rljax.rlhf.policy.samples import Samples
from rljax.training.loop import PooledMetrics, add_metrics


def text_task(
    tokenizer: Tokenizer,
    prompts: Sequence[str | Messages],
    params: Params,
    *,
    template: bool | ChatTemplate = True,
    bos: bool | None = None,
    reward: Any = None,
) -> PolicyTask:
    """Returns the task of prompts that are texts or chats.

    Args:
        tokenizer: the policy's.
        prompts: a text is a user's message to a chat template.
        params: of the policy before training.
        template: as for `rljax.rlhf.encoding_config`, and so is `bos`.
        bos: see there.
        reward: what a reward of tokens reads.

    Raises:
        ValueError: there is no prompt, one has no tokens, or the template refuses it.
    """
    if not prompts:
        raise ValueError("a task needs at least one prompt, got none. Give some.")
    encoding = encoding_config(tokenizer, max_length=2**30, template=template, bos=bos)
    pairs = [Pair(prompt, "") for prompt in prompts]
    rows: list[list[int]] = []
    for i, row in enumerate(encode_prompts(tokenizer, pairs, encoding)):
        if isinstance(row, EncodingError):
            raise ValueError(f"prompt {i} cannot be encoded: {row}")
        rows.append(row)
    ids, lengths = map(jnp.asarray, left_padded(rows))
    return PolicyTask(ids, lengths, params, reward)


class TextTraining(NamedTuple):
    """What `rljax.training.train` takes to train with rewards of texts.

    Attributes:
        algorithm: of the learner. Its `step` is there for the shapes of metrics alone: by
            itself it learns nothing, and `train` says that it diverged.
        take_updates: `(algorithm, state, task, num_updates, metrics) -> (state, metrics)`.
    """

    algorithm: Algorithm[PolicyState]
    take_updates: Callable[..., tuple[PolicyState, PooledMetrics]]


def text_training(
    learner: Learner,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    reward: TextReward,
    *,
    keep_in: Path | None = None,
) -> TextTraining:
    """Returns what `train` needs to train with rewards of texts.

    Args:
        learner: of a policy optimization, which needs no reward of tokens.
        tokenizer: the policy's.
        prompts: the texts of the task's prompts, in their order.
        reward: `(prompts, completions) -> scores`, each a list of N; called once an
            update. Of several processes each calls it with a part of them.
        keep_in: a folder for what was sampled when the reward fails; None keeps nothing.
    """
    options = compiler_options()
    sample = jax.jit(learner.sample, donate_argnums=0, compiler_options=options)
    update = jax.jit(learner.update, donate_argnums=0, compiler_options=options)
    add = jax.jit(add_metrics)

    def score(samples: Samples) -> np.ndarray:
        """Of several processes each scores a part of the completions."""
        whole = to_host(samples.replace(trunk=None, trunk_last=None))
        parts = np.array_split(np.arange(len(whole.lengths)), num_processes())
        some = jax.tree.map(lambda x: x[parts[jax.process_index()]], whole)
        texts = completion_texts(tokenizer, some, learner.config.stop_ids)
        asked = [prompts[i] for i in np.asarray(some.prompt_index)]
        scores = checked_scores(reward, asked, texts, keep_in)
        return np.concatenate(gather(scores.tolist())).astype(np.float32)

    def take_updates(
        algorithm: Algorithm[PolicyState],
        state: PolicyState,
        task: Any,
        num_updates: jax.Array,
        metrics: PooledMetrics,
    ) -> tuple[PolicyState, PooledMetrics]:
        del algorithm
        for _ in range(int(num_updates)):
            state, samples = sample(state, task)
            scores = score(samples)
            state, more = update(state, task, samples, jnp.asarray(scores))
            metrics = add(metrics, more)
        return state, metrics

    def shapes(state: PolicyState, task: Any) -> Any:
        state, samples = learner.sample(state, task)
        unknown = jnp.full(samples.lengths.shape, jnp.nan, jnp.float32)
        return learner.update(state, task, samples, unknown)

    def check(state: PolicyState, task: Any) -> None:
        learner.algorithm.check(state, task)
        check_tokenizer(tokenizer, learner.module.config.vocab_size, "policy")
        if len(prompts) != len(task.prompts):
            raise ValueError(
                f"prompts must be the texts of the task's {len(task.prompts)} prompts, "
                f"got {len(prompts)}. Give both from the same list."
            )

    algorithm = learner.algorithm._replace(step=shapes, check=check)
    return TextTraining(algorithm, take_updates)


def completion_texts(
    tokenizer: Tokenizer, samples: Samples, stop_ids: tuple[int, ...] = ()
) -> list[str]:
    """Returns the texts of N completions, each without its stop token."""
    ids, counts = np.asarray(samples.completions), np.asarray(samples.num_learned)
    rows = [row[:count].tolist() for row, count in zip(ids, counts, strict=True)]
    rows = [row[:-1] if row[-1] in stop_ids else row for row in rows]
    return [tokenizer.decode(row) for row in rows]
