"""The trainings that recipes consist of: each is one stage, from parameters to parameters."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from rljax.base import Params
from rljax.numerics.validation import check_at_least
from rljax.rlhf.data.rows import Completions, Rankings
from rljax.rlhf.direct import DirectTask, direct_alignment
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.policy import PolicyTask, policy_optimization
from rljax.rlhf.recipes.prompts import RewardedPrompts
from rljax.rlhf.recipes.stages import Stages
from rljax.rlhf.training import SFTTask, fine_tuning, trained_params

Evaluate = Callable[[Params, Params], Mapping[str, Any]]
"""`(params, start) -> measures` of a language model over held-out prompts, by name: each
`[M]`, or a number. `start` is the model that the stage began with, for a divergence."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The sizes of one stage that trains.

    Attributes:
        config: of its algorithm, such as an `SFTConfig`.
        hyperparams: of its algorithm.
        num_updates: how many.
        improves: the measure that it is to raise.
    """

    config: Any
    hyperparams: Any
    num_updates: int
    improves: str

    def __post_init__(self):
        check_at_least(1, num_updates=self.num_updates)


def fine_tune(
    stages: Stages,
    stage: str,
    module: Transformer,
    params: Params,
    rows: Completions,
    training: Training,
    key: jax.Array,
    evaluate: Evaluate,
    before: Mapping[str, Any],
) -> Params:
    """Returns a language model fine-tuned on rows, as a stage; `before` is of `Stages`."""
    task, config = SFTTask(rows, params), training.config
    return stages.train(
        stage,
        fine_tuning(module, config),
        task,
        training.hyperparams,
        key=key,
        num_updates=training.num_updates,
        rows_per_update=config.batch_size,
        params_of=lambda state: trained_params(module, config.trainable, state, task),
        evaluate=lambda learned: evaluate(learned, params),
        improves=training.improves,
        before=before,
    )


def align(
    stages: Stages,
    stage: str,
    module: Transformer,
    params: Params,
    pairs: Rankings,
    training: Training,
    key: jax.Array,
    evaluate: Evaluate,
    before: Mapping[str, Any],
) -> Params:
    """Returns a language model aligned directly to pairs that have a reference."""
    task, config = DirectTask(pairs, params), training.config
    return stages.train(
        stage,
        direct_alignment(module, config),
        task,
        training.hyperparams,
        key=key,
        num_updates=training.num_updates,
        rows_per_update=config.batch_size,
        unit="pairs",
        params_of=lambda state: trained_params(module, config.trainable, state, task),
        evaluate=lambda learned: evaluate(learned, params),
        improves=training.improves,
        before=before,
    )


def optimize(
    stages: Stages,
    stage: str,
    module: Transformer,
    params: Params,
    prompts: RewardedPrompts,
    training: Training,
    key: jax.Array,
    evaluate: Evaluate,
    before: Mapping[str, Any],
) -> Params:
    """Returns a policy optimized on prompts with their reward; the reference is `params`."""
    config = training.config
    task = PolicyTask(prompts.ids, prompts.lengths, params, prompts.params)
    return stages.train(
        stage,
        policy_optimization(module, config, prompts.reward).algorithm,
        task,
        training.hyperparams,
        key=key,
        num_updates=training.num_updates,
        rows_per_update=config.num_samples,
        unit="completions",
        headline="reward",
        params_of=lambda state: trained_params(module, config.trainable, state, task),
        evaluate=lambda learned: evaluate(learned, params),
        improves=training.improves,
        before=before,
    )
